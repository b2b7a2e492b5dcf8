//! A stage of the file as the stages that it feeds see it.

use std::any::Any;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use super::diagnostic::At;
use super::tree::{Key, Tree};
use super::wording;
use crate::graph::StageTemplate;
use crate::upstream::{Feeding, MadeBy, Source, Upstream, Views};

/// A stage with one combination of its matrix.
pub(crate) struct Producer {
    /// With the label of the combination: `others[b]`.
    pub name: String,
    pub at: At,
    /// The pipeline's file.
    pub file: Rc<PathBuf>,
    /// The tree that it was decoded from.
    pub body: Tree,
    /// Its keys that every stage has, such as `seed`.
    pub common: Vec<(Key, Tree)>,
    pub call: Arc<StageTemplate>,
    /// Indexed by the numbers of the call's inputs.
    pub sources: Vec<Source>,
}

/// Drops sources in a loop: recursion along a long chain of stages would overflow the stack.
impl Drop for Producer {
    fn drop(&mut self) {
        let mut left = self.release();
        while let Some(source) = left.pop() {
            if let MadeBy::Stage(mut by, _) = source.made_by
                && let Some(last) = Rc::get_mut(&mut by)
            {
                left.append(&mut last.release());
            }
        }
    }
}

impl Feeding for Producer {
    fn stage(&self) -> &dyn Any {
        self.call.decoded.stage.as_any()
    }

    fn views(&self) -> Views {
        self.call.decoded.stage.views()
    }

    fn upstream(&self) -> Upstream<'_> {
        Upstream(&self.sources)
    }

    fn place(&self, key: &str) -> String {
        let path: Vec<String> = key.split('.').map(str::to_owned).collect();
        let At { line, column, .. } = wording::around(&self.body, &path).map_or(self.at, |tree| tree.at);
        format!("`{key}` of `{}` ({}:{line}:{column})", self.name, self.file.display())
    }

    fn release(&mut self) -> Vec<Source> {
        std::mem::take(&mut self.sources)
    }
}
