//! The stage kinds of this program.

use crate::engine::Registry;

/// All stage kinds that a pipeline can name.
pub fn registry() -> Registry {
    #[cfg(feature = "models")]
    return crate::stages::registry();
    #[cfg(not(feature = "models"))]
    Registry::default().with::<crate::exec::Exec>().of_build("a build without models")
}
