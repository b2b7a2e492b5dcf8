//! The parts of a node's name: nodes are named `ABLATION-s1/play[1]/red[03]/update`.

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
