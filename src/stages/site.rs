//! What the site file says, as stages read it. It was checked when the pipeline was loaded.

use serde::de::DeserializeOwned;
use serde_json::Value;

/// Reads a value of the site file; `what` names it in errors.
pub(crate) fn read<T: DeserializeOwned>(what: &str, value: &Value) -> anyhow::Result<T> {
    serde_path_to_error::deserialize(value)
        .map_err(|error| anyhow::anyhow!("{what}: {}: {}", error.path(), error.inner()))
}
