//! The stages that feed a stage, for parameters that two stages must agree on. It knows stages only by their Rust types, or by the
//! traits that they show; the grammar supplies the connections.

use std::any::Any;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::input::Input;

/// The sources of a stage's inputs.
#[derive(Clone, Copy)]
pub struct Upstream<'a>(pub(super) &'a [Source]);

/// Where an input comes from.
#[derive(Clone)]
pub(super) struct Source {
    /// Its identity: within a scope, two inputs that take the same have the same.
    pub id: Id,
    pub made_by: MadeBy,
}

/// The identity of a source.
pub(super) type Id = [usize; 4];

#[derive(Clone)]
pub(super) enum MadeBy {
    /// A stage of the same pipeline, and the number of its output. For a value that a loop carries, the one that makes the
    /// initial value.
    Stage(Rc<dyn Feeding>, usize),
    File(PathBuf),
    /// An environment variable, or something that was reported as wrong.
    Unknown,
}

/// A stage that feeds others.
pub(super) trait Feeding {
    fn stage(&self) -> &dyn Any;
    fn views(&self) -> Views;
    fn upstream(&self) -> Upstream<'_>;
    /// The place of one of its keys, for a message: `` `group` of `attacks` (p.yaml:7:21)``.
    fn place(&self, key: &str) -> String;
    /// Takes the sources out of a stage that is being dropped.
    fn release(&mut self) -> Vec<Source>;
}

/// The traits of a stage by which the stages that it feeds can ask for it, without naming its type.
#[derive(Default)]
pub struct Views(Vec<Box<dyn Any>>);

type View<V> = Box<dyn Fn(&dyn Any) -> Option<&V>>;

impl Views {
    /// Adds a trait `V` of the stage `S`: `Views::default().with(|stage: &Generate| stage as &dyn Sampler)`.
    pub fn with<S: 'static, V: ?Sized + 'static>(mut self, view: fn(&S) -> &V) -> Views {
        fn erased<S: 'static, V: ?Sized>(view: fn(&S) -> &V) -> impl Fn(&dyn Any) -> Option<&V> {
            move |stage| stage.downcast_ref().map(view)
        }
        let view: View<V> = Box::new(erased(view));
        self.0.push(Box::new(view));
        self
    }

    fn of<'a, V: ?Sized + 'static>(&self, stage: &'a dyn Any) -> Option<&'a V> {
        self.0.iter().find_map(|view| view.downcast_ref::<View<V>>())?(stage)
    }
}

/// A stage that feeds another: by its type, or by a trait that it shows.
pub struct Feeder<'a, S: ?Sized> {
    /// Its parameters, with every default filled in.
    pub stage: &'a S,
    by: &'a dyn Feeding,
}

impl<S: ?Sized> Clone for Feeder<'_, S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S: ?Sized> Copy for Feeder<'_, S> {}

impl<'a, S: ?Sized> Feeder<'a, S> {
    /// The sources of its inputs.
    pub fn upstream(&self) -> Upstream<'a> {
        self.by.upstream()
    }

    /// The place of one of its keys, such as `sampling.temperature`, for a message. If the key is left out, the place of the
    /// value around it.
    pub fn place(&self, key: &str) -> String {
        self.by.place(key)
    }
}

impl<'a> Upstream<'a> {
    fn source<T>(self, input: &Input<T>) -> Option<&'a Source> {
        self.0.get(input.place.number?)
    }

    /// The stage that makes an input, if it is one of this pipeline and of this type.
    pub fn stage<S: 'static, T>(self, input: &Input<T>) -> Option<Feeder<'a, S>> {
        let MadeBy::Stage(by, _) = &self.source(input)?.made_by else { return None };
        Some(Feeder { stage: by.stage().downcast_ref()?, by: &**by })
    }

    /// The stage that makes an input, if it is one of this pipeline and shows this trait in [`super::Stage::views`].
    pub fn view<V: ?Sized + 'static, T>(self, input: &Input<T>) -> Option<Feeder<'a, V>> {
        let MadeBy::Stage(by, _) = &self.source(input)?.made_by else { return None };
        Some(Feeder { stage: by.views().of(by.stage())?, by: &**by })
    }

    /// The user's file or folder, if an input is one.
    pub fn file<T>(self, input: &Input<T>) -> Option<&'a Path> {
        match &self.source(input)?.made_by {
            MadeBy::File(path) => Some(path),
            MadeBy::Stage(..) | MadeBy::Unknown => None,
        }
    }

    /// Whether an input and that of another stage are the same; `None` if that is not known.
    pub fn is_same<T, U>(self, input: &Input<T>, other: Upstream, of_other: &Input<U>) -> Option<bool> {
        let (one, other) = (self.source(input)?, other.source(of_other)?);
        if one.id == other.id {
            return Some(true);
        }
        match (&one.made_by, &other.made_by) {
            (MadeBy::Unknown, _) | (_, MadeBy::Unknown) => None,
            (MadeBy::Stage(one, output), MadeBy::Stage(other, of_other)) => {
                Some(std::ptr::addr_eq(Rc::as_ptr(one), Rc::as_ptr(other)) && output == of_other)
            }
            (MadeBy::File(one), MadeBy::File(other)) => Some(one == other),
            (MadeBy::Stage(..), MadeBy::File(_)) | (MadeBy::File(_), MadeBy::Stage(..)) => Some(false),
        }
    }
}
