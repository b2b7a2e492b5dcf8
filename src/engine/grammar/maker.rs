//! A stage of the file as those that it feeds see it.

use std::any::Any;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use super::diagnostic::At;
use super::tree::Tree;
use super::wording;
use crate::graph::Call;
use crate::upstream::{Feeding, Source, Upstream};

/// A stage with one combination of its matrix.
pub struct Maker {
    /// With the label of the combination: `others[b]`.
    pub name: String,
    pub at: At,
    /// The pipeline's file.
    pub file: Rc<PathBuf>,
    /// What it was decoded from.
    pub body: Tree,
    pub call: Arc<Call>,
    /// By the numbers of the call's inputs.
    pub sources: Vec<Source>,
}

impl Feeding for Maker {
    fn stage(&self) -> &dyn Any {
        self.call.decoded.stage.as_any()
    }

    fn upstream(&self) -> Upstream<'_> {
        Upstream(&self.sources)
    }

    fn place(&self, key: &str) -> String {
        let path: Vec<String> = key.split('.').map(str::to_owned).collect();
        let At { line, column, .. } = wording::around(&self.body, &path).map_or(self.at, |tree| tree.at);
        format!("`{key}` of `{}` ({}:{line}:{column})", self.name, self.file.display())
    }
}
