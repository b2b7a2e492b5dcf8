//! What a node's key is made of. The one place: whatever belongs into the key is in the manifest, and the
//! key is the manifest's digest, so that a record can show why it has its key.

use serde_json::{Value, json};

use super::graph::{Node, Numerics};
use super::input;
use crate::store::Digest;

/// Raised when the meaning of manifests or records changes.
const FORMAT: u32 = 1;

/// Everything that the node's outputs depend on: kind and code version, canonical parameters with each
/// input replaced by its content digest, loop position and seed, numerics. Not: names, comments, order of
/// keys, paths, thread count. `digest_of` gives the content digest of the n-th input; `numerics` is what models
/// are computed with.
pub fn manifest(node: &Node, numerics: &Numerics, digest_of: impl Fn(usize) -> Digest) -> Value {
    let params = input::replace(&node.decoded.params, &mut |origin| {
        let index = node.feeds.iter().position(|(known, _)| known == origin);
        json!({ "digest": index.map(&digest_of) })
    });
    json!({
        "format": FORMAT,
        "kind": node.kind.name,
        "version": node.kind.version,
        "params": params,
        "position": node.position,
        "seed": node.seed.to_hex(),
        "numerics": node.kind.numerics.then_some(&numerics.resolved),
    })
}
