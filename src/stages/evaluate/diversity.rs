//! The diversity of attacks: of their words, of their meanings by embeddings, and of the cells of category and technique that
//! they hit.

use std::collections::BTreeSet;

use super::Evaluation;
use crate::{artifact, asking};
use data::AttackRow;
use engine::Context;
use game::{Frames, frame};

/// The technique of each attack, as far as it is known, and the number of cells of category and technique.
pub(super) struct Techniques {
    pub of: Vec<Option<String>>,
    cells: usize,
}

impl Evaluation<'_> {
    /// Gives each attack the technique of the benchmark or benign prompt with the most similar wrapping.
    pub(super) fn techniques(&self, context: &Context, attacks: &[AttackRow]) -> anyhow::Result<Techniques> {
        let mut examples: Vec<(String, String)> = Vec::new();
        for input in [&self.stage.benchmark, &self.stage.benign] {
            for row in artifact::rows::<AttackRow, _>(context, input)?.iter() {
                let technique = row.technique.clone();
                examples.extend(technique.map(|technique| (frame(&row.origin.seed, &row.text), technique)));
            }
        }
        let known: BTreeSet<&str> = examples.iter().map(|(_, technique)| technique.as_str()).collect();
        let categories: BTreeSet<&str> = attacks.iter().map(|row| row.origin.category.as_str()).collect();
        let cells = known.len() * categories.len();
        let frames = Frames::new(&examples);
        let of = |row: &AttackRow| frames.technique(&frame(&row.origin.seed, &row.text)).map(str::to_owned);
        Ok(Techniques { of: attacks.iter().map(of).collect(), cells })
    }

    /// Adds the diversity of these attacks.
    pub(super) fn diversity(
        &mut self,
        context: &Context,
        subject: &str,
        attacks: &[(&AttackRow, Option<&str>)],
        techniques: &Techniques,
    ) -> anyhow::Result<()> {
        let texts: Vec<&str> = attacks.iter().map(|(attack, _)| attack.text.as_str()).collect();
        self.rates.diversity(subject, &texts);
        if self.stage.embedder.is_some() {
            let embeddings = asking::embed(context, self.stage.embedder.as_ref(), &texts)?;
            let embeddings: Vec<&[f32]> = embeddings.iter().map(Vec::as_slice).collect();
            self.rates.embeddings(subject, &embeddings);
        }
        let hits: Vec<(&str, &str)> = attacks
            .iter()
            .filter_map(|(attack, technique)| Some((attack.origin.category.as_str(), (*technique)?)))
            .collect();
        self.rates.cells(subject, &hits, techniques.cells);
        Ok(())
    }
}
