//! `roles:` and `defaults:`, keys that several stages share. They are put below the keys of a stage before it is decoded, as if
//! they had been typed there: own keys first, then those of the role, then the defaults of the kind, then those of the site file.

use std::cell::{LazyCell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::diagnostic::{At, Diagnostic};
use super::errors::Errors;
use super::known::KnownKeys;
use super::params::Substitution;
use super::spec::{COMMON_KEYS, StageSpec};
use super::tree::{Key, Tree, Value};
use super::wording;
use crate::stage::Registry;

/// The key that names a role.
pub(crate) const ROLE: &str = "role";

/// The keys of a stage that are its own.
pub(crate) const OWN_KEYS: [&str; 3] = ["kind", "matrix", "publish"];

/// The roles, and the defaults of kinds, as typed.
#[derive(Debug)]
pub(crate) struct Shared {
    roles: Vec<(Key, Tree)>,
    defaults: Vec<(Key, Tree)>,
    /// Those of the site file, for every kind that knows the key.
    of_site: Vec<(Key, Tree)>,
}

/// The schemas of the keys of a map.
type Schemas<'s> = BTreeMap<&'s str, &'s serde_json::Value>;

/// Where a role is used.
struct User {
    stage: String,
    /// The keys that the place knows.
    known: BTreeSet<String>,
    /// The keys of the role that some place has taken.
    taken: BTreeSet<String>,
}

/// Fills in what stages share, and notes what is used: by all ablations, as a role may be taken by only one of them.
pub(crate) struct Filling<'a> {
    errors: &'a Errors<'a>,
    pub registry: &'a Registry,
    shared: &'a Shared,
    of_kinds: RefCell<BTreeMap<&'static str, Rc<KnownKeys>>>,
    kinds: RefCell<BTreeSet<&'static str>>,
    users: RefCell<BTreeMap<String, User>>,
}

impl Shared {
    pub(crate) fn new(roles: Vec<(Key, Tree)>, defaults: Vec<(Key, Tree)>) -> Shared {
        Shared { roles, defaults, of_site: Vec::new() }
    }

    /// Adds a default of the site file.
    pub(crate) fn add_of_site(&mut self, key: &str, value: &serde_json::Value) {
        let value = Tree::of_json(value, At::OF_SITE);
        self.of_site.push((Key { name: key.to_owned(), at: At::OF_SITE }, value));
    }
}

impl<'a> Filling<'a> {
    pub(crate) fn new(errors: &'a Errors, registry: &'a Registry, shared: &'a Shared) -> Filling<'a> {
        let (of_kinds, kinds, users) = Default::default();
        Filling { errors, registry, shared, of_kinds, kinds, users }
    }

    /// The defaults of a stage's kind, and its own keys with all that they leave out; `None` after a reported error.
    pub(crate) fn fill(
        &self,
        spec: &StageSpec,
        kind: &'static str,
        substitution: &Substitution,
    ) -> (Tree, Option<Tree>) {
        self.kinds.borrow_mut().insert(kind);
        let none = || Tree::new(Value::Map(Vec::new()), spec.name.at);
        let typed = self.shared.defaults.iter().find(|(key, _)| key.name == kind);
        let defaults = match typed {
            Some((key, tree)) => self.map(key, tree, substitution),
            None => Some(none()),
        };
        let body = substitution.apply(&spec.body);
        let body = defaults.as_ref().and_then(|defaults| {
            self.filled(&wording::stage(&spec.name.name, kind), kind, body?, defaults, substitution)
        });
        (defaults.unwrap_or_else(none), body)
    }

    /// The keys of a role or of the defaults of a kind, with parameters replaced.
    fn map(&self, key: &Key, tree: &Tree, substitution: &Substitution) -> Option<Tree> {
        let tree = substitution.apply(tree)?;
        match &tree.value {
            Value::Map(_) => Some(tree),
            Value::Null => Some(tree.with(Value::Map(Vec::new()))),
            other => {
                let message =
                    format!("`{}` must be a map with keys of stages, found {}", key.name, other.describe());
                self.errors.at(key.at, message)
            }
        }
    }

    fn filled(
        &self,
        stage: &str,
        kind: &'static str,
        mut body: Tree,
        defaults: &Tree,
        substitution: &Substitution,
    ) -> Option<Tree> {
        let places = self.registry.roles(kind);
        let mut defaults = defaults.clone();
        // Most pipelines need no schema.
        let of_kind = LazyCell::new(|| self.known_keys(kind));
        let keys = LazyCell::new(|| of_kind.keys(""));
        let put_below = |body: &mut Tree, shared: &Tree| {
            let (Value::Map(own), Value::Map(shared)) = (&mut body.value, &shared.value) else { return };
            for entry in shared {
                of_kind.put_below(own, entry, keys.get(entry.0.name.as_str()).copied());
            }
        };
        if !places.is_empty() {
            let of_defaults = take(&mut defaults, ROLE);
            let role = take(&mut body, ROLE).or(of_defaults);
            // The roles of entries, `None` for those without one, and the keys of each that they leave to the stage.
            let mut of_entries: Vec<(Option<&str>, Tree)> = Vec::new();
            for (path, usual) in places {
                let steps: Vec<&str> = path.split('.').filter(|step| !step.is_empty()).collect();
                let of_defaults = take_entries(&mut defaults, &steps);
                of_defaults.iter().for_each(|shared| put_below(&mut body, shared));
                let known = LazyCell::new(|| of_kind.keys(path));
                let mut found = Some(());
                each(&mut body, &steps, &mut |place| {
                    let own = if steps.is_empty() { None } else { take(place, ROLE) };
                    let filled = self.chosen(own.as_ref().or(role.as_ref()), usual).and_then(|chosen| {
                        let (mut name, mut left) = (None, Vec::new());
                        let at = place.at;
                        if let Some((key, typed)) = chosen {
                            let values = self.map(key, typed, substitution)?;
                            name = Some(key.name.as_str());
                            left = self.take_role(stage, (&key.name, values), place, &known, &keys, &of_kind);
                        }
                        if !steps.is_empty() && of_entries.iter().all(|(seen, _)| *seen != name) {
                            of_entries.push((name, Tree::new(Value::Map(left), at)));
                        }
                        Some(())
                    });
                    found = found.and(filled);
                });
                found?;
            }
            let with = |(role, left): &(Option<&'a str>, Tree)| {
                let mut filled = body.clone();
                put_below(&mut filled, left);
                (*role, filled)
            };
            if of_entries.len() > 1 {
                self.agree(stage, &of_entries.iter().map(with).collect::<Vec<_>>())?;
            }
            of_entries.iter().for_each(|(_, left)| put_below(&mut body, left));
        }
        if let Value::Map(shared) = &mut defaults.value {
            shared.retain(|(key, _)| !COMMON_KEYS.contains(&key.name.as_str()));
        }
        put_below(&mut body, &defaults);
        if let Value::Map(own) = &mut body.value {
            for entry in self.shared.of_site.iter().filter(|(key, _)| keys.contains_key(key.name.as_str())) {
                of_kind.put_below(own, entry, None);
            }
        }
        body.remove_left_out();
        Some(body)
    }

    fn known_keys(&self, kind: &'static str) -> Rc<KnownKeys> {
        let mut of_kinds = self.of_kinds.borrow_mut();
        of_kinds.entry(kind).or_insert_with(|| Rc::new(KnownKeys::of(self.registry, kind))).clone()
    }

    /// The role that is named, or else the usual one, if there is one. The outer `None`: an error was reported.
    fn chosen(&self, named: Option<&Tree>, usual: &str) -> Option<Option<&'a (Key, Tree)>> {
        let roles = &self.shared.roles;
        let find = |name: &str| roles.iter().find(|(key, _)| key.name == name);
        match named.map(|tree| (&tree.value, tree.at)) {
            None => Some(find(usual)),
            Some((Value::Null | Value::LeftOut, _)) => Some(None),
            Some((Value::Text(name), at)) => match find(name) {
                Some(role) => Some(Some(role)),
                None if roles.is_empty() => {
                    let error = self.errors.error(at, format!("the pipeline has no role `{name}`"));
                    self.errors.add(error.help(format!("write roles: {{ {name}: … }} at the top level")))
                }
                None => {
                    let error = self.errors.error(at, format!("the pipeline has no role `{name}`"));
                    self.errors.add(error.suggest(name, roles.iter().map(|(key, _)| key.name.as_str())))
                }
            },
            Some((other, at)) => {
                let message = format!("`role` must be the name of a role, found {}", other.found());
                self.errors.at(at, message)
            }
        }
    }

    /// Puts the keys of a role that a place knows below its own. Returns those that the stage around it knows.
    fn take_role(
        &self,
        stage: &str,
        (role, values): (&str, Tree),
        place: &mut Tree,
        known: &Schemas,
        of_stage: &Schemas,
        of_kind: &KnownKeys,
    ) -> Vec<(Key, Tree)> {
        let (Value::Map(own), Value::Map(values)) = (&mut place.value, values.value) else {
            return Vec::new();
        };
        let mut users = self.users.borrow_mut();
        let user = users.entry(role.to_owned()).or_insert_with(|| User {
            stage: stage.to_owned(),
            known: known.keys().map(|key| (*key).to_owned()).collect(),
            taken: BTreeSet::new(),
        });
        let mut left = Vec::new();
        for entry in values {
            let name = entry.0.name.as_str();
            if !known.contains_key(name) && !of_stage.contains_key(name) {
                continue;
            }
            user.taken.insert(name.to_owned());
            match known.get(name) {
                Some(schema) => of_kind.put_below(own, &entry, Some(schema)),
                None => left.push(entry),
            }
        }
        left
    }

    /// Reports an error unless a stage is the same with each of the roles of its entries, such as in its `sampling`. What it has
    /// itself cannot differ.
    fn agree(&self, stage: &str, filled: &[(Option<&str>, Tree)]) -> Option<()> {
        let of = |role: Option<&str>| {
            role.map_or("entries without a role".to_owned(), |role| format!("the role `{role}`"))
        };
        let ((first, one), others) = filled.split_first()?;
        for (role, other) in others {
            if let Some((path, at, values)) = difference(one, other) {
                let [one, other] =
                    values.map(|value| value.map_or("nothing".into(), |tree| tree.value.found()));
                let (first, role) = (of(*first), of(*role));
                let message = format!(
                    "{stage} must have one `{path}` for all its entries, found {one} from {first} and {other} from {role}"
                );
                let help = format!("write `{path}` into the stage");
                return self.errors.add(self.errors.error(at, message).help(help));
            }
        }
        Some(())
    }

    /// Reports what no stage can take. Returns warnings of what none takes.
    pub(crate) fn finish(self) -> Vec<Diagnostic> {
        let (kinds, users) = (self.kinds.into_inner(), self.users.into_inner());
        let mut warnings = Vec::new();
        let mut warn = |at: At, message: String, help: &str| {
            warnings.push(self.errors.source.error(at, message).help(help));
        };
        for (key, tree) in &self.shared.defaults {
            let kind = key.name.as_str();
            if !self.registry.names().any(|name| name == kind) {
                let error = self.errors.error(key.at, self.registry.unknown(kind));
                self.errors.add::<()>(error.suggest(kind, self.registry.names()));
            } else if !kinds.contains(kind) {
                let message = format!("no stage is of the kind `{kind}`, whose defaults these are");
                warn(key.at, message, "remove them");
            }
            let Value::Map(entries) = &tree.value else { continue };
            for (key, _) in entries.iter().filter(|(key, _)| OWN_KEYS.contains(&key.name.as_str())) {
                let message = format!("`{}` must be written in a stage: it is not a default", key.name);
                self.errors.at::<()>(key.at, message);
            }
        }
        for (role, tree) in &self.shared.roles {
            let Some(user) = users.get(role.name.as_str()) else {
                let help = "a stage or an entry of it takes a role by `role: NAME`";
                warn(role.at, format!("no stage takes the role `{}`", role.name), help);
                continue;
            };
            let Value::Map(entries) = &tree.value else { continue };
            for (key, _) in entries.iter().filter(|(key, _)| !user.taken.contains(&key.name)) {
                let message = format!(
                    "{}, which takes the role `{}`, has no key `{}`",
                    user.stage, role.name, key.name
                );
                let error = self.errors.error(key.at, message);
                self.errors.add::<()>(error.suggest(&key.name, user.known.iter().map(String::as_str)));
            }
        }
        warnings
    }
}

/// Removes a key from a map.
fn take(tree: &mut Tree, key: &str) -> Option<Tree> {
    let Value::Map(entries) = &mut tree.value else { return None };
    let index = entries.iter().position(|(known, _)| known.name == key)?;
    Some(entries.remove(index).1)
}

/// What defaults say of the entries at a path, with the keys around it: a list counts whole, so its entries take roles as those
/// of a stage do. Of the map of a single entry only the `role`, which is taken out: its other keys come after those of the role.
fn take_entries(defaults: &mut Tree, steps: &[&str]) -> Option<Tree> {
    let at = defaults.at;
    let entries = match (steps.split_first(), &mut defaults.value) {
        (Some((&"*", _)), _) => return Some(defaults.clone()),
        (None, Value::Map(_)) => {
            let role = take(defaults, ROLE);
            role.map(|role| (Key { name: ROLE.into(), at: role.at }, role)).into_iter().collect()
        }
        (Some((step, rest)), Value::Map(entries)) => {
            let (key, inner) = entries.iter_mut().find(|(key, _)| key.name == *step)?;
            vec![(key.clone(), take_entries(inner, rest)?)]
        }
        _ => return None,
    };
    Some(Tree::new(Value::Map(entries), at))
}

/// The path of the first key that has not the same value in two maps, its place, and both values.
fn difference<'t>(one: &'t Tree, other: &'t Tree) -> Option<(String, At, [Option<&'t Tree>; 2])> {
    let (Value::Map(first), Value::Map(second)) = (&one.value, &other.value) else { return None };
    second.iter().chain(first).find_map(|(key, _)| {
        let values = [one.get(&key.name), other.get(&key.name)];
        match values {
            [Some(Tree { value: Value::Map(_), .. }), Some(Tree { value: Value::Map(_), .. })] => {
                let (path, at, values) = difference(values[0]?, values[1]?)?;
                Some((format!("{}.{path}", key.name), at, values))
            }
            _ if values[0].map(Tree::to_json) == values[1].map(Tree::to_json) => None,
            _ => Some((key.name.clone(), key.at, values)),
        }
    })
}

/// Calls `act` with the maps at a path.
fn each(tree: &mut Tree, steps: &[&str], act: &mut dyn FnMut(&mut Tree)) {
    match (steps.split_first(), &mut tree.value) {
        (None, Value::Map(_)) => act(tree),
        (Some((&"*", rest)), Value::List(items)) => items.iter_mut().for_each(|item| each(item, rest, act)),
        (Some((step, rest)), Value::Map(entries)) => {
            let inner = entries.iter_mut().find(|(key, _)| key.name == *step);
            inner.into_iter().for_each(|(_, inner)| each(inner, rest, act));
        }
        _ => {}
    }
}
