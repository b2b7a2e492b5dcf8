//! The parts of a node's name: nodes are named `ABLATION-s1/play[1]/red[03]/update`.

use std::borrow::Cow;

use engine::NodeReport;

/// The parameter that `seeds` of a matrix gives.
const SEED: &str = "seed";

/// A node's ablation and seed, and the rest of its name.
pub fn variant(node: &str) -> (&str, Option<u64>, &str) {
    let Some((name, rest)) = node.split_once('/').filter(|(name, _)| !name.contains('[')) else {
        return ("", None, node);
    };
    let seed = |text: &str| text.strip_prefix('s').and_then(|digits| digits.parse().ok());
    match (seed(name), name.rsplit_once('-')) {
        (Some(seed), _) => ("", Some(seed), rest),
        (None, Some((ablation, last))) if seed(last).is_some() => (ablation, seed(last), rest),
        _ => (name, None, rest),
    }
}

/// The name of a node whose matrix has `seeds`, as if the pipeline had these seeds: `full-s2/train[low]` for `full/train[low,2]`.
/// Results repeat both alike. Other nodes, and those of a pipeline with several seeds, keep their names.
pub fn repeated(node: &NodeReport) -> Cow<'_, str> {
    let (ablation, of_pipeline, rest) = variant(&node.node);
    let place = node.params.iter().position(|(name, _)| name == SEED);
    let (Some(seed), None, Some(place)) = (node.seed, of_pipeline, place) else {
        return node.node.as_str().into();
    };
    let Some((path, labels)) = rest.strip_suffix(']').and_then(|rest| rest.rsplit_once('[')) else {
        return node.node.as_str().into();
    };
    let others: Vec<&str> =
        labels.split(',').enumerate().filter(|(at, _)| *at != place).map(|(_, label)| label).collect();
    let dash = if ablation.is_empty() { "" } else { "-" };
    let label = if others.is_empty() { String::new() } else { format!("[{}]", others.join(",")) };
    format!("{ablation}{dash}s{seed}/{path}{label}").into()
}

/// The parameters that tell a node's variant from others: those of its matrix without the seed by which it is repeated.
pub fn told_by(node: &NodeReport) -> impl Iterator<Item = &(String, String)> {
    node.params.iter().filter(move |(name, _)| node.seed.is_none() || name != SEED)
}

/// A node's stage, and the label of its combination in a matrix: `brew` and `low` of `play[1]/brew[low]`.
pub fn stage(node: &str) -> (&str, Option<&str>) {
    let (path, label) = match node.strip_suffix(']').and_then(|rest| rest.rsplit_once('[')) {
        Some((path, label)) => (path, Some(label)),
        None => (node, None),
    };
    (path.rsplit_once('/').map_or(path, |(_, stage)| stage), label)
}

/// The place of a measurement in the order of a run, as tables and curves name it: the phase before it, such as `warm-up` or
/// `1 red`, or `1.3` for a training step. Files of other programs do not say in which round they were written; the node's name does.
pub fn after(node: &str, phase: &str, (iteration, step): (u32, u32)) -> String {
    match (iteration, step) {
        (0, _) => match rounds(node)[..] {
            [] => phase.to_owned(),
            ref rounds => {
                let rounds: Vec<String> = rounds.iter().map(u32::to_string).collect();
                format!("{} {phase}", rounds.join("."))
            }
        },
        (iteration, 0) => format!("{iteration} {phase}"),
        (iteration, step) => format!("{iteration}.{step}"),
    }
}

/// The rounds of the loops around a node, from the outside: 1 and 3 of `play[1]/red[03]/update`.
pub fn rounds(node: &str) -> Vec<u32> {
    let scope = node.rsplit_once('/').map_or("", |(scope, _)| scope);
    let round = |part: &str| part.strip_suffix(']')?.rsplit_once('[')?.1.parse().ok();
    scope.split('/').filter_map(round).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matrix_over_seeds_repeats_a_node_as_the_seeds_of_the_pipeline_do() {
        let node = |name: &str, params: &[(&str, &str)], seed: Option<u64>| {
            let digest = store::Digest::of_bytes(b"");
            let text = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
            let params = params.iter().map(text).collect();
            let (position, outputs) = (Vec::new(), Vec::new());
            let (node, kind) = (name.to_owned(), "exec".to_owned());
            NodeReport {
                node,
                index: 0,
                kind,
                cached: false,
                key: digest,
                position,
                seconds: 0.0,
                params,
                seed,
                outputs,
            }
        };
        let both = [("seed", "2"), ("heat", "low")];
        for (given, expected) in [
            (node("train[2,low]", &both, Some(2)), "s2/train[low]"),
            (node("full/play[1]/train[2,low]", &both, Some(2)), "full-s2/play[1]/train[low]"),
            (node("train[2]", &both[..1], Some(2)), "s2/train"),
            (node("s7/train[2]", &both[..1], Some(2)), "s7/train[2]"),
            (node("train[2,low]", &both, None), "train[2,low]"),
            (node("train", &[], None), "train"),
        ] {
            assert_eq!(repeated(&given), expected);
        }
        assert_eq!(told_by(&node("train[2,low]", &both, Some(2))).count(), 1);
    }
}
