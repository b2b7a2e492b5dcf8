//! The stage kinds of this program.

use std::sync::OnceLock;

use crate::engine::Registry;

/// Who says what the kinds are; a program of somebody else's may have more of them.
static KINDS: OnceLock<fn() -> Registry> = OnceLock::new();

/// Sets the stage kinds of this process, once.
pub(crate) fn set(kinds: fn() -> Registry) {
    let _ = KINDS.set(kinds);
}

/// Whether the stage kinds of this process have been set.
pub(crate) fn is_set() -> bool {
    KINDS.get().is_some()
}

/// All stage kinds that a pipeline can name.
pub(crate) fn registry() -> Registry {
    KINDS.get().copied().unwrap_or(own)()
}

/// The stage kinds of triplay.
pub(crate) fn own() -> Registry {
    #[cfg(feature = "models")]
    return crate::stages::registry();
    #[cfg(not(feature = "models"))]
    Registry::default().with::<crate::exec::Exec>().of_build("a build without models")
}
