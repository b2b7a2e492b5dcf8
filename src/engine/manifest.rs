//! What a node's key is made of. The one place: whatever belongs into the key is in the manifest, and the
//! key is the manifest's digest, so that a record can show why it has its key.

use serde_json::{Value, json};

use super::graph::Node;
use super::input;
use crate::store::Digest;

/// Raised when the meaning of manifests or records changes.
const FORMAT: u32 = 1;

/// Everything that the node's outputs depend on: kind and code version, canonical parameters with each
/// input replaced by its content digest, loop position and seed, numerics. Not: names, comments, order of
/// keys, paths, thread count. `digest_of` gives the content digest of the n-th input; `numerics` is what models
/// are computed with.
pub fn manifest(node: &Node, digest_of: impl Fn(usize) -> Digest) -> Value {
    let call = &node.call;
    let params = input::replace(&call.decoded.params, &mut |origin| {
        let index = call.origins.iter().position(|known| known == origin);
        json!({ "digest": index.map(&digest_of) })
    });
    json!({
        "format": FORMAT,
        "kind": call.kind.name,
        "version": call.kind.version,
        "params": params,
        "position": *node.position,
        "seed": node.seed.to_hex(),
        "numerics": call.kind.numerics.then_some(&call.numerics.resolved),
    })
}
