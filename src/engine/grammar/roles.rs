//! `roles:` and `defaults:`, keys that several stages share. They are put below the keys of a stage before it is decoded, as if
//! they had been typed there: own keys first, then those of the role, then the defaults of the kind, then those of the site file.

use std::cell::{LazyCell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::diagnostic::At;
use super::errors::Errors;
use super::known::KnownKeys;
use super::params::Substitution;
use super::spec::{COMMON_KEYS, StageSpec};
use super::tree::{Key, Tree, Value};
use super::uses::UseWarnings;
use super::wording;
use crate::stage::Registry;

/// The key that names a role.
pub(crate) const ROLE: &str = "role";

/// The keys of a stage that are its own.
const OWN_KEYS: [&str; 3] = ["kind", "matrix", "publish"];

/// The roles, and the defaults of kinds, as typed.
#[derive(Debug)]
pub(crate) struct Shared {
    roles: Vec<(Key, Tree)>,
    defaults: Vec<(Key, Tree)>,
    /// Those of the site file, for every kind that knows the key.
    of_site: Vec<(Key, Tree)>,
}

/// Where a role is used.
struct User {
    stage: String,
    /// The keys that the place knows.
    known: BTreeSet<String>,
    /// The keys of the role that some place has taken.
    taken: BTreeSet<String>,
}

/// A key of a role that an entry of a stage leaves to the stage.
struct Left<'a> {
    role: &'a str,
    key: Key,
    value: Tree,
}

/// Fills in what stages share, and notes what is used.
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
        let Value::Map(under) = &defaults.value else { return Some(body) };
        // Most pipelines need no schema.
        let of_kind = LazyCell::new(|| self.known_keys(kind));
        let keys = LazyCell::new(|| of_kind.keys(""));
        if !places.is_empty() {
            let role = take(&mut body, ROLE).or_else(|| defaults.get(ROLE).cloned());
            let mut left = Vec::new();
            for (path, usual) in places {
                let steps: Vec<&str> = path.split('.').filter(|step| !step.is_empty()).collect();
                // A list in the defaults counts whole, so its entries take roles as those of the stage would.
                if let Some(first) = steps.first().filter(|first| body.get(first).is_none())
                    && let (Some(entry), Value::Map(own)) =
                        (under.iter().find(|(key, _)| key.name == *first), &mut body.value)
                {
                    own.push(entry.clone());
                }
                let known = LazyCell::new(|| of_kind.keys(path));
                let mut found = Some(());
                each(&mut body, &steps, &mut |place| {
                    let own = if steps.is_empty() { None } else { take(place, ROLE) };
                    let filled = self.chosen(own.as_ref().or(role.as_ref()), usual).and_then(|chosen| {
                        let Some((name, typed)) = chosen else { return Some(()) };
                        let values = self.map(name, typed, substitution)?;
                        left.extend(self.take_role(
                            stage,
                            (name.name.as_str(), &values),
                            place,
                            &known,
                            &of_kind,
                        ));
                        Some(())
                    });
                    found = found.and(filled);
                });
                found?;
            }
            if !left.is_empty() {
                self.fill_stage(stage, &mut body, left, &keys, &of_kind)?;
            }
        }
        if let Value::Map(own) = &mut body.value {
            let is_of_kind = |key: &str| !COMMON_KEYS.contains(&key) && (key != ROLE || places.is_empty());
            for (key, value) in under.iter().filter(|(key, _)| is_of_kind(&key.name)) {
                put(own, key, value, keys.get(key.name.as_str()).copied(), &of_kind);
            }
            for (key, value) in &self.shared.of_site {
                if keys.contains_key(key.name.as_str()) {
                    put(own, key, value, None, &of_kind);
                }
            }
        }
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
            Some((Value::Null, _)) => Some(None),
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

    /// Puts the keys of a role that a place knows below its own. Returns the others.
    fn take_role(
        &self,
        stage: &str,
        (role, values): (&'a str, &Tree),
        place: &mut Tree,
        known: &BTreeMap<&str, &serde_json::Value>,
        of_kind: &KnownKeys,
    ) -> Vec<Left<'a>> {
        let (Value::Map(own), Value::Map(values)) = (&mut place.value, &values.value) else {
            return Vec::new();
        };
        let mut users = self.users.borrow_mut();
        let user = users.entry(role.to_owned()).or_insert_with(|| User {
            stage: stage.to_owned(),
            known: known.keys().map(|key| (*key).to_owned()).collect(),
            taken: BTreeSet::new(),
        });
        let mut left = Vec::new();
        for (key, value) in values {
            match known.get(key.name.as_str()) {
                Some(schema) => {
                    user.taken.insert(key.name.clone());
                    put(own, key, value, Some(schema), of_kind);
                }
                None => left.push(Left { role, key: key.clone(), value: value.clone() }),
            }
        }
        left
    }

    /// Gives the stage what its entries do not know of their roles, such as the `sampling` of all defenders.
    fn fill_stage(
        &self,
        stage: &str,
        body: &mut Tree,
        left: Vec<Left<'a>>,
        known: &BTreeMap<&str, &serde_json::Value>,
        of_kind: &KnownKeys,
    ) -> Option<()> {
        let Value::Map(own) = &mut body.value else { return Some(()) };
        let typed: BTreeSet<String> = own.iter().map(|(key, _)| key.name.clone()).collect();
        let mut given: BTreeMap<String, &str> = BTreeMap::new();
        for Left { role, key, value } in left {
            let Some(schema) = known.get(key.name.as_str()) else { continue };
            if let Some(user) = self.users.borrow_mut().get_mut(role) {
                user.taken.insert(key.name.clone());
            }
            match given.get(&key.name) {
                Some(other) if *other != role && !typed.contains(&key.name) => {
                    let message = format!(
                        "{stage} must have one `{}`, found those of the roles `{other}` and `{role}`",
                        key.name
                    );
                    let help = format!("write `{}` into the stage", key.name);
                    return self.errors.add(self.errors.error(key.at, message).help(help));
                }
                Some(_) => {}
                None => {
                    put(own, &key, &value, Some(schema), of_kind);
                    given.insert(key.name, role);
                }
            }
        }
        Some(())
    }

    /// Reports what no stage can take, and warns of what none takes.
    pub(crate) fn finish(&self, warnings: &UseWarnings) {
        let (kinds, users) = (self.kinds.borrow(), self.users.borrow());
        for (key, tree) in &self.shared.defaults {
            let kind = key.name.as_str();
            if !self.registry.names().any(|name| name == kind) {
                let error = self.errors.error(key.at, self.registry.unknown(kind));
                self.errors.add::<()>(error.suggest(kind, self.registry.names()));
            } else if !kinds.contains(kind) {
                let message = format!("no stage is of the kind `{kind}`, whose defaults these are");
                warnings.add(key.at, message, "remove them".into());
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
                warnings.add(role.at, format!("no stage takes the role `{}`", role.name), help.into());
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
    }
}

/// Removes a key from a map.
fn take(tree: &mut Tree, key: &str) -> Option<Tree> {
    let Value::Map(entries) = &mut tree.value else { return None };
    let index = entries.iter().position(|(known, _)| known.name == key)?;
    Some(entries.remove(index).1)
}

/// Puts an entry below those of a map.
fn put(
    own: &mut Vec<(Key, Tree)>,
    key: &Key,
    value: &Tree,
    schema: Option<&serde_json::Value>,
    of_kind: &KnownKeys,
) {
    match own.iter_mut().find(|(known, _)| known.name == key.name) {
        None => own.push((key.clone(), value.clone())),
        Some((_, above)) => schema.into_iter().for_each(|schema| of_kind.put_below(above, value, schema)),
    }
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
