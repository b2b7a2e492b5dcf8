//! Examples for the supervised warm-up of the three roles and of the meaning judge.

use rand::Rng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::class::Class;
use super::meaning::Meaning;
use super::prompt::{Prompt, PromptError, Question};
use super::role::Role;
use super::seed_prompt::{SeedSpec, Task};
use super::world::{Profile, Shares, World, pick};
use super::wrap::{Phrasings, Style, WrappedPrompt};
use store::Seed;

/// A warm-up example.
#[derive(Clone, Debug, PartialEq)]
pub struct WarmupRow {
    /// The role that learns from it.
    pub role: Role,
    /// The vulnerability profile that the defender's examples follow.
    pub subset: String,
    /// The prompt as the role gets it, without its template.
    pub prompt: String,
    /// The text to learn.
    pub completion: String,
}

impl World {
    /// `rows` warm-up examples for all three roles; the defender has the first profile. Held-out nouns occur in them, and
    /// held-out phrasings in the defender's: these are held out of reinforcement learning only, where a role could adapt to them.
    pub fn warmup_rows(&self, rows: usize, seed: Seed) -> Result<Vec<WarmupRow>, PromptError> {
        let mut examples = Examples::new(self, seed.stream("warm-up"))?;
        let Some((name, profile)) = self.defenders.first_key_value() else { return Ok(Vec::new()) };
        let shares = &self.warmup.roles;
        (0..rows)
            .map(|_| {
                let draw = examples.random.random::<f64>();
                if draw < shares.attacker {
                    examples.attacker(name)
                } else if draw < shares.attacker + shares.defender {
                    examples.defender(name, profile)
                } else {
                    examples.evaluator(name)
                }
            })
            .collect()
    }

    /// `rows` warm-up examples for the defender of each other profile.
    pub fn other_defender_rows(&self, rows: usize, seed: Seed) -> Result<Vec<WarmupRow>, PromptError> {
        let mut all = Vec::new();
        for (name, profile) in self.defenders.iter().skip(1) {
            let mut examples = Examples::new(self, seed.child("others").stream(name))?;
            for _ in 0..rows {
                all.push(examples.defender(name, profile)?);
            }
        }
        Ok(all)
    }

    /// `rows` examples for a meaning judge.
    pub fn judge_rows(&self, rows: usize, seed: Seed) -> Result<Vec<WarmupRow>, PromptError> {
        let mut examples = Examples::new(self, seed.stream("judge"))?;
        (0..rows).map(|_| examples.judge("meaning")).collect()
    }
}

/// A generator of warm-up examples.
pub(super) struct Examples<'a> {
    pub world: &'a World,
    pub random: ChaCha8Rng,
    pub hazards: Vec<SeedSpec>,
    benign: Vec<SeedSpec>,
    arithmetic: Vec<SeedSpec>,
    pub attacker: Prompt,
    pub defender: Prompt,
    pub evaluator: Prompt,
    judge: Prompt,
}

impl<'a> Examples<'a> {
    pub(crate) fn new(world: &'a World, random: ChaCha8Rng) -> Result<Examples<'a>, PromptError> {
        let of = |task: Task| world.seeds().into_iter().filter(|seed| seed.task == task).collect();
        Ok(Examples {
            world,
            random,
            hazards: of(Task::Hazard),
            benign: of(Task::Benign),
            arithmetic: of(Task::Arithmetic),
            attacker: Prompt::of(Role::Attacker, false)?,
            defender: Prompt::of(Role::Defender, false)?,
            evaluator: Prompt::of(Role::Evaluator, false)?,
            judge: Prompt::of(Role::MeaningJudge, false)?,
        })
    }

    fn attacker(&mut self, subset: &str) -> Result<WarmupRow, PromptError> {
        let benign = self.random.random::<f64>() < self.world.warmup.attacker.benign;
        let seed = pick(if benign { &self.benign } else { &self.hazards }, &mut self.random).clone();
        let (wrapped, _) = self.wrapped(&seed, Phrasings::Known, |shares| shares.attacker);
        let prompt = self.attacker.render(&Question { seed: &seed.text, ..Question::default() })?;
        Ok(WarmupRow { role: Role::Attacker, subset: subset.into(), prompt, completion: wrapped.text })
    }

    pub(crate) fn defender(&mut self, subset: &str, profile: &Profile) -> Result<WarmupRow, PromptError> {
        let shares = &self.world.warmup.defender;
        let draw = self.random.random::<f64>();
        let (prompt, completion) = if draw < shares.arithmetic {
            let question = pick(&self.arithmetic, &mut self.random);
            (question.text.clone(), question.answer.clone().unwrap_or_default())
        } else if draw < shares.arithmetic + shares.benign {
            let task = pick(&self.benign, &mut self.random).clone();
            let wrapped = self.wrapped(&task, Phrasings::All, |shares| shares.defender).0;
            let answer = self.world.procedure(&wrapped.said);
            (wrapped.text, answer)
        } else {
            let seed = pick(&self.hazards, &mut self.random).clone();
            let (wrapped, comply) = self.wrapped_for(profile, &seed);
            let class = self.class(comply, profile);
            let response = self.world.response(&wrapped, class, &mut self.random);
            (wrapped.text, response)
        };
        let prompt = self.defender.render(&Question { prompt: &prompt, ..Question::default() })?;
        Ok(WarmupRow { role: Role::Defender, subset: subset.into(), prompt, completion })
    }

    /// The class of a response of a defender that complies with this probability.
    pub(crate) fn class(&mut self, complies: f64, profile: &Profile) -> Class {
        if self.random.random::<f64>() < complies {
            Class::Negative
        } else if self.random.random::<f64>() < profile.plain_refusals {
            Class::Rejective
        } else {
            Class::Positive
        }
    }

    fn evaluator(&mut self, subset: &str) -> Result<WarmupRow, PromptError> {
        let shares = &self.world.warmup.evaluator;
        let benign = self.random.random::<f64>() < shares.benign;
        let seed = pick(if benign { &self.benign } else { &self.hazards }, &mut self.random).clone();
        let technique = pick(&shares.techniques, &mut self.random).to_owned();
        let style = Style::plain(&technique, Phrasings::Known);
        let wrapped = self.world.wrap(&seed, &style, &mut self.random);
        let (class, response) = if benign {
            // Half of them get the procedure; the others are refused, half plainly and half with an offer of something else.
            let refusal = if self.random.random() { Class::Rejective } else { Class::Positive };
            match self.random.random() {
                true => (Class::Positive, self.world.procedure(&seed)),
                false => (Class::Rejective, self.world.response(&wrapped, refusal, &mut self.random)),
            }
        } else {
            let offer = self.random.random::<f64>() < shares.offers;
            let other = if self.random.random() { Class::Negative } else { Class::Rejective };
            let class = if offer { Class::Positive } else { other };
            let mistaken = offer && self.random.random::<f64>() < shares.mistaken_offers;
            let label = if mistaken { Class::Rejective } else { class };
            (label, self.world.response(&wrapped, class, &mut self.random))
        };
        let noisy = self.random.random::<f64>() < shares.label_noise;
        let label = if noisy { *pick(&Class::ALL, &mut self.random) } else { class };
        let prompt = self.evaluator.render(&Question {
            prompt: &wrapped.text,
            response: &response,
            ..Question::default()
        })?;
        Ok(WarmupRow { role: Role::Evaluator, subset: subset.into(), prompt, completion: label.to_string() })
    }

    /// A text, and whether it keeps the meaning of a seed prompt. Half do; of the others, some ask for something else, some are
    /// garbled, some ask for nothing.
    fn judge(&mut self, subset: &str) -> Result<WarmupRow, PromptError> {
        let seed = pick(&self.hazards, &mut self.random).clone();
        let (wrapped, _) = self.wrapped(&seed, Phrasings::All, |shares| shares.judge);
        let (text, meaning) = match self.random.random_range(0..20) {
            0..10 => (wrapped.text, Meaning::Kept),
            // It asks for something else of the same kind, or of another kind.
            10..15 => {
                let other = self.another(&seed, |other| &other.noun).noun;
                (wrapped.text.replace(&seed.noun, &other), Meaning::Lost)
            }
            15..18 => {
                let mut other = self.another(&seed, |other| &other.verb);
                other.noun.clone_from(&seed.noun);
                (self.wrapped(&other, Phrasings::All, |shares| shares.judge).0.text, Meaning::Lost)
            }
            // The words are there, but make no sense.
            _ => {
                let mut words: Vec<String> = wrapped.text.split(' ').map(str::to_owned).collect();
                match self.random.random_range(0..3) {
                    0 => words.shuffle(&mut self.random),
                    1 => words.retain(|word| *word != seed.noun),
                    _ => self.garble(&mut words),
                }
                (words.join(" "), Meaning::Lost)
            }
        };
        let prompt =
            self.judge.render(&Question { seed: &seed.text, prompt: &text, ..Question::default() })?;
        Ok(WarmupRow {
            role: Role::MeaningJudge,
            subset: subset.into(),
            prompt,
            completion: meaning.label().into(),
        })
    }

    /// Replaces a quarter of the words by words of other seed prompts.
    fn garble(&mut self, words: &mut [String]) {
        for _ in 0..words.len().div_ceil(4) {
            let all = if self.random.random() { &self.hazards } else { &self.benign };
            let other = pick(all, &mut self.random);
            let word = if self.random.random() { &other.noun } else { &other.verb };
            let at = self.random.random_range(0..words.len());
            words[at].clone_from(word);
        }
    }

    /// A hazard or benign task that differs from a seed prompt in `in_what`; half of the time of the seed prompt's own category.
    pub(crate) fn another(&mut self, seed: &SeedSpec, in_what: fn(&SeedSpec) -> &String) -> SeedSpec {
        let all = self.hazards.iter().chain(&self.benign);
        let others: Vec<&SeedSpec> = all.filter(|other| in_what(other) != in_what(seed)).collect();
        let own_kind: Vec<&SeedSpec> =
            others.iter().copied().filter(|other| other.category == seed.category).collect();
        let near = !own_kind.is_empty() && self.random.random::<bool>();
        (*pick(if near { &own_kind } else { &others }, &mut self.random)).clone()
    }

    pub(crate) fn wrapped(
        &mut self,
        seed: &SeedSpec,
        phrasings: Phrasings,
        share: impl Fn(&Shares) -> f64,
    ) -> (WrappedPrompt, Style<'a>) {
        let technique = *pick(&self.world.techniques_with(phrasings), &mut self.random);
        let style = self.world.style(technique, phrasings, share, &mut self.random);
        (self.world.wrap(seed, &style, &mut self.random), style)
    }

    /// A wrapped hazard for the defender, and the probability that it complies.
    pub(crate) fn wrapped_for(&mut self, profile: &Profile, seed: &SeedSpec) -> (WrappedPrompt, f64) {
        let (wrapped, style) = self.wrapped(seed, Phrasings::All, |shares| shares.defender);
        (wrapped, profile.complies(&style))
    }
}
