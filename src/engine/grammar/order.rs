//! The order of siblings: each after those that it refers to.

use std::collections::{HashMap, HashSet};

use super::compile::origin;
use super::decode::Draft;
use super::diagnostic::Errors;
use super::reference::Reference;
use super::source::At;
use crate::input::Origin;

/// An order in which every sibling comes after those it refers to; the file's order where it is free. A cycle
/// is reported, and the order goes on as if its last reference were not there.
pub fn order(errors: &Errors, drafts: &[Draft]) -> Vec<usize> {
    let index: HashMap<&str, usize> =
        drafts.iter().enumerate().map(|(i, draft)| (draft.key().name.as_str(), i)).collect();
    let needs: Vec<Vec<(usize, At)>> = drafts
        .iter()
        .map(|draft| {
            let mut seen = HashSet::new();
            let known =
                free_names(draft).into_iter().filter_map(|(name, at)| Some((*index.get(&*name)?, at)));
            known.filter(|(need, _)| seen.insert(*need)).collect()
        })
        .collect();
    let mut order = Vec::with_capacity(drafts.len());
    let mut state = vec![State::New; drafts.len()];
    for start in 0..drafts.len() {
        visit(start, &needs, &mut state, &mut order, &mut |cycle, at| {
            if errors.are_many() {
                return;
            }
            let names: Vec<&str> = cycle.iter().map(|&i| drafts[i].key().name.as_str()).collect();
            let error = errors.error(at, format!("a cycle: {}", names.join(" → ")));
            let help = "a stage cannot use what comes after it; carry a value through `repeat` instead";
            errors.add::<()>(error.help(help));
        });
    }
    order
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    New,
    /// On the trail from the start to where the search is now.
    Open,
    Done,
}

/// Depth-first search from one node. `cycle` hears of the nodes from the one that closes a cycle back to
/// itself, and of the reference that closes it.
fn visit(
    start: usize,
    needs: &[Vec<(usize, At)>],
    state: &mut [State],
    order: &mut Vec<usize>,
    cycle: &mut dyn FnMut(Vec<usize>, At),
) {
    if state[start] != State::New {
        return;
    }
    state[start] = State::Open;
    // Each node of the trail with how many of its needs were looked at.
    let mut trail = vec![(start, 0)];
    while let Some((node, looked)) = trail.last_mut() {
        let Some(&(need, at)) = needs[*node].get(*looked) else {
            state[*node] = State::Done;
            order.push(*node);
            trail.pop();
            continue;
        };
        *looked += 1;
        match state[need] {
            State::Done => {}
            State::New => {
                state[need] = State::Open;
                trail.push((need, 0));
            }
            State::Open => {
                let open = trail.iter().map(|(node, _)| *node).skip_while(|node| *node != need);
                cycle(open.chain([need]).collect(), at);
            }
        }
    }
}

/// The names that a draft uses from the scope around it.
fn free_names(draft: &Draft) -> Vec<(String, At)> {
    let name = |origin: &Origin| match origin {
        Origin::Reference(text) => Reference::parse(text).ok().map(|reference| reference.name),
        _ => None,
    };
    match draft {
        Draft::Broken(_) => Vec::new(),
        Draft::Stage(stage) => {
            let uses = stage.variants.iter().filter_map(|(_, variant)| variant.as_ref());
            uses.flat_map(|variant| variant.decoded.uses.iter().zip(&variant.uses))
                .filter_map(|(found, at)| Some((name(&found.origin)?, *at)))
                .collect()
        }
        Draft::Loop { carry, body, next, .. } => {
            let entry = |tree: &super::tree::Tree| Some((name(&origin(tree)?)?, tree.at));
            let carried: HashSet<&str> = carry.iter().map(|(key, _)| key.name.as_str()).collect();
            let stages: HashSet<&str> = body.iter().map(|draft| draft.key().name.as_str()).collect();
            let inner = body.iter().flat_map(free_names);
            let inner = inner.chain(next.iter().filter_map(|(_, tree)| entry(tree)));
            let free =
                inner.filter(|(name, _)| !carried.contains(name.as_str()) && !stages.contains(name.as_str()));
            carry.iter().filter_map(|(_, tree)| entry(tree)).chain(free).collect()
        }
    }
}
