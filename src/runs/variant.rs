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

/// The rounds of the loops around a node, from the outside: 1 and 3 of `play[1]/red[03]/update`.
pub fn rounds(node: &str) -> Vec<u32> {
    let scope = node.rsplit_once('/').map_or("", |(scope, _)| scope);
    let round = |part: &str| part.strip_suffix(']')?.rsplit_once('[')?.1.parse().ok();
    scope.split('/').filter_map(round).collect()
}
