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
