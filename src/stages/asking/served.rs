//! A model behind a server.
use super::ReadyPrompt;
use super::here::InProcess;
use super::sampler::{Rendered, Report, Sampled, Sampler, Selected};
use crate::artifact::AskedModel;
use engine::{CheckError, Context, Endpoint, Input};
use model::{Arguments, RenderedPrompt};
use rollout::Sampling;
use store::Seed;
pub(crate) struct Served;
pub(crate) fn check_endpoint(_entry: &serde_json::Value) -> Result<(), CheckError> {
    Ok(())
}
impl Served {
    pub(super) fn new(
        _c: &Context,
        _m: &Input<AskedModel>,
        _e: Endpoint,
        _l: Option<InProcess>,
        _a: Arguments,
        _t: bool,
        _w: &str,
    ) -> anyhow::Result<Served> {
        anyhow::bail!("not yet")
    }
}
impl Sampler for Served {
    fn guard(&self, _: &str) -> String {
        String::new()
    }
    fn positions(&self) -> Option<usize> {
        None
    }
    fn prompts(&self, _: Vec<Rendered>) -> anyhow::Result<Vec<ReadyPrompt>> {
        let _ = ReadyPrompt::of_server(RenderedPrompt::plain(""), None);
        anyhow::bail!("not yet")
    }
    fn sample(&self, _: &[ReadyPrompt], _: &Sampling, _: Seed, _: Report) -> anyhow::Result<Vec<Sampled>> {
        anyhow::bail!("not yet")
    }
    fn continuations(&self, _: &[ReadyPrompt], _: &[&str]) -> anyhow::Result<Vec<Vec<Vec<u32>>>> {
        anyhow::bail!("not yet")
    }
    fn choose(
        &self,
        _: &[ReadyPrompt],
        _: &[&str],
        _: &[Vec<Vec<u32>>],
        _: f64,
        _: Seed,
        _: Report,
    ) -> anyhow::Result<Vec<Option<Selected>>> {
        anyhow::bail!("not yet")
    }
    fn score(&self, _: &[(&[u32], &[u32])], _: f64) -> anyhow::Result<Vec<Vec<f32>>> {
        anyhow::bail!("not yet")
    }
    fn embed(&self, _: &[&str]) -> anyhow::Result<Vec<Vec<f32>>> {
        anyhow::bail!("not yet")
    }
}
