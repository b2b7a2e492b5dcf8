//! The nodes that a command line names: by the name of a node, stage or loop, or by a pattern.

use std::collections::BTreeSet;

use anyhow::bail;

use crate::engine::{self, Graph, NodeId};
use crate::runs::bare_rounds;

/// A node's name in the forms in which people write it: without leading zeros in rounds, with and without its variant.
struct Named {
    id: NodeId,
    full: String,
    /// Where the name begins without the variant.
    own: usize,
}

impl Named {
    /// All nodes of the graph that are not left out.
    fn all(graph: &Graph) -> Vec<Named> {
        let prefixes: Vec<String> =
            graph.variants.iter().filter_map(|variant| Some(variant.name()? + "/")).collect();
        let named = |id: NodeId| {
            let full = bare_rounds(&graph.node(id).name);
            let own = prefixes.iter().find(|prefix| full.starts_with(*prefix)).map_or(0, String::len);
            Named { id, full, own }
        };
        graph.selected().map(named).collect()
    }

    fn own(&self) -> &str {
        &self.full[self.own..]
    }

    /// Whether the whole name, with or without the variant, matches a pattern.
    fn is(&self, pattern: &str) -> bool {
        is_match(pattern, &self.full) || is_match(pattern, self.own())
    }

    /// Whether it belongs to a stage, a loop, a round or a variant of this name.
    fn is_within(&self, name: &str) -> bool {
        let starts = |path: &str| {
            path.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '[']))
        };
        starts(&self.full) || self.own().split('/').any(starts) || starts(self.own())
    }
}

/// Whether a text matches a pattern, in which `*` stands for any text and `?` for one character.
fn is_match(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut at, mut seen) = (0, 0);
    // The last `*`, and the text that it stands for at least.
    let mut star: Option<(usize, usize)> = None;
    while seen < text.len() {
        match pattern.get(at) {
            Some('*') => {
                star = Some((at, seen));
                at += 1;
            }
            Some(char) if *char == '?' || *char == text[seen] => (at, seen) = (at + 1, seen + 1),
            _ => match &mut star {
                Some((before, end)) => {
                    *end += 1;
                    (at, seen) = (*before + 1, *end);
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|char| *char == '*')
}

/// The nodes that these names and patterns mean, in the order of the graph. One that means no node is an error.
pub(crate) fn targets(graph: &Graph, names: &[String]) -> anyhow::Result<Vec<NodeId>> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let all = Named::all(graph);
    let mut found = BTreeSet::new();
    for name in names {
        // With the slash, a round at the end loses its zeros too.
        let bare = bare_rounds(&format!("{name}/"));
        let bare = bare.trim_end_matches('/');
        let ways: [&dyn Fn(&Named) -> bool; 2] = [&|node| node.is(bare), &|node| node.is_within(bare)];
        let ids = |way: &&dyn Fn(&Named) -> bool| -> Vec<NodeId> {
            all.iter().filter(|node| way(node)).map(|node| node.id).collect()
        };
        match ways.iter().map(ids).find(|ids| !ids.is_empty()) {
            Some(ids) => found.extend(ids),
            None => bail!(unknown(graph, &all, name)),
        }
    }
    Ok(found.into_iter().collect())
}

/// The error for a name that means no node.
fn unknown(graph: &Graph, all: &[Named], name: &str) -> String {
    let mut known: BTreeSet<&str> = all.iter().flat_map(|node| [node.full.as_str(), node.own()]).collect();
    // A segment without its brackets is the name of a stage or a loop.
    let segments = all.iter().flat_map(|node| node.own().split('/'));
    known.extend(segments.map(|segment| segment.split_once('[').map_or(segment, |(stage, _)| stage)));
    let known: Vec<&str> = known.into_iter().collect();
    let help = match engine::nearest(name, &known) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "`triplay pipeline plan FILE --all` lists the nodes".into(),
    };
    format!(
        "`{name}` must name a node or a stage of `{}`, found none of this name\n  help: {help}",
        graph.pipeline
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_text_and_a_question_mark_for_one_character() {
        for (pattern, text) in
            [("*", ""), ("a*", "a"), ("*b", "aab"), ("a*c*e", "abcde"), ("r[?]/a", "r[1]/a"), ("é?", "éa")]
        {
            assert!(is_match(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [("", "a"), ("a", "ab"), ("?", ""), ("a*b", "abc"), ("r[?]/a", "r[12]/a")] {
            assert!(!is_match(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn a_name_stands_for_what_belongs_to_it() {
        let node = |full: &str, own: usize| Named { id: NodeId(0), full: full.into(), own };
        let node = node("s1/play[1]/red[3]/attacks[low]", 3);
        for name in
            ["s1", "play", "red", "play[1]", "play[1]/red", "play[1]/red[3]", "attacks", "attacks[low]"]
        {
            assert!(node.is_within(name), "{name}");
        }
        for name in ["", "pla", "red[3]/x", "low", "play[2]", "1]", "s"] {
            assert!(!node.is_within(name), "{name}");
        }
        assert!(node.is("play[1]/red[3]/attacks[low]") && node.is("s1/*") && node.is("play*"));
    }
}
