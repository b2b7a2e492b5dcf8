//! What a world declares, written out: seeds, warm-up examples, benchmarks, labelled pairs, vocabulary.

use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

use super::class::Class;
use super::prompt::{Prompt, PromptError, Question};
use super::role::Role;
use super::world::{Profile, Technique, World};
use crate::store::Seed;

/// Whether reinforcement learning may see a seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    Train,
    HeldOut,
}

impl Split {
    pub fn name(self) -> &'static str {
        match self {
            Split::Train => "train",
            Split::HeldOut => "heldout",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    Hazard,
    Benign,
    Arithmetic,
}

impl Task {
    pub fn name(self) -> &'static str {
        match self {
            Task::Hazard => "hazard",
            Task::Benign => "benign",
            Task::Arithmetic => "arithmetic",
        }
    }
}

/// A seed prompt of the world.
#[derive(Clone, Debug, PartialEq)]
pub struct SeedSpec {
    /// `potions/brew/glowvenom`.
    pub id: String,
    pub category: String,
    pub task: Task,
    pub split: Split,
    pub verb: String,
    pub noun: String,
    /// `brew glowvenom`, or the arithmetic question.
    pub text: String,
    /// The procedure of a benign task, the sum of a question; hazards have none.
    pub answer: Option<String>,
    /// Ingredients of the procedure.
    ingredients: [String; 2],
}

/// A warm-up example.
#[derive(Clone, Debug, PartialEq)]
pub struct WarmupRow {
    pub role: Role,
    /// The vulnerability profile that the defender's examples follow.
    pub subset: String,
    pub prompt: String,
    pub completion: String,
}

/// A seed wrapped by a template.
#[derive(Clone, Debug, PartialEq)]
pub struct WrappedPrompt {
    pub seed: SeedSpec,
    pub technique: String,
    pub text: String,
}

/// A prompt, a response and its true class.
#[derive(Clone, Debug, PartialEq)]
pub struct LabelledPair {
    pub prompt: WrappedPrompt,
    pub response: String,
    pub class: Class,
}

/// Which phrasings of a technique to draw from.
#[derive(Clone, Copy)]
enum Phrasings {
    /// What the attacker learns.
    Known,
    HeldOut,
    All,
}

impl World {
    /// All seeds: hazards, benign tasks, arithmetic questions.
    pub fn seeds(&self) -> Vec<SeedSpec> {
        let mut seeds = Vec::new();
        for (category, hazard) in &self.hazards {
            for (verb, ingredients) in &hazard.verbs {
                for (split, nouns) in
                    [(Split::Train, &hazard.nouns), (Split::HeldOut, &hazard.held_out_nouns)]
                {
                    seeds.extend(
                        nouns
                            .iter()
                            .map(|noun| self.seed(category, Task::Hazard, split, verb, noun, ingredients)),
                    );
                }
            }
        }
        for (verb, task) in &self.benign {
            for (split, nouns) in [(Split::Train, &task.nouns), (Split::HeldOut, &task.held_out_nouns)] {
                seeds.extend(
                    nouns
                        .iter()
                        .map(|noun| self.seed(verb, Task::Benign, split, verb, noun, &task.ingredients)),
                );
            }
        }
        let range = self.arithmetic.from..=self.arithmetic.to;
        for (a, b) in range.clone().flat_map(|a| range.clone().map(move |b| (a, b))) {
            seeds.push(SeedSpec {
                id: format!("arithmetic/{a}+{b}"),
                category: "arithmetic".into(),
                task: Task::Arithmetic,
                split: Split::HeldOut,
                verb: String::new(),
                noun: String::new(),
                text: self.arithmetic.question.replace("{a}", &a.to_string()).replace("{b}", &b.to_string()),
                answer: Some((a + b).to_string()),
                ingredients: Default::default(),
            });
        }
        seeds
    }

    fn seed(
        &self,
        category: &str,
        task: Task,
        split: Split,
        verb: &str,
        noun: &str,
        ingredients: &[String; 2],
    ) -> SeedSpec {
        let mut seed = SeedSpec {
            id: format!("{category}/{verb}/{noun}"),
            category: category.to_owned(),
            task,
            split,
            verb: verb.to_owned(),
            noun: noun.to_owned(),
            text: format!("{verb} {noun}"),
            answer: None,
            ingredients: ingredients.clone(),
        };
        if task == Task::Benign {
            seed.id = format!("benign/{verb}/{noun}");
            seed.answer = Some(self.procedure(&seed));
        }
        seed
    }

    /// The procedure for a seed.
    pub fn procedure(&self, seed: &SeedSpec) -> String {
        let [first, second] = &seed.ingredients;
        fill(&self.responses.procedure, seed).replace("{first}", first).replace("{second}", second)
    }

    /// A response of this class to a hazard.
    fn response(&self, seed: &SeedSpec, class: Class, random: &mut ChaCha8Rng) -> String {
        match class {
            Class::Negative => self.procedure(seed),
            Class::Rejective => pick(&self.responses.refusals, random).to_owned(),
            Class::Positive => {
                let alternative: &String = pick(&self.responses.alternatives, random);
                fill(&self.responses.offer, seed).replace("{alternative}", alternative)
            }
        }
    }

    fn wrap(
        &self,
        seed: &SeedSpec,
        technique: &str,
        phrasings: Phrasings,
        random: &mut ChaCha8Rng,
    ) -> WrappedPrompt {
        let Technique { phrasings: known, held_out } = &self.techniques[technique];
        let candidates: Vec<&String> = match phrasings {
            Phrasings::Known => known.iter().collect(),
            Phrasings::HeldOut => held_out.iter().collect(),
            Phrasings::All => known.iter().chain(held_out).collect(),
        };
        let phrasing: &&String = pick(&candidates, random);
        let text = fill(phrasing, seed);
        WrappedPrompt { seed: seed.clone(), technique: technique.to_owned(), text }
    }

    /// `rows` warm-up examples for all three roles, the defender's after the first profile. Held-out nouns
    /// occur here, and in the defender's examples held-out phrasings: they are held out of reinforcement
    /// learning, where a role could adapt to them.
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

    /// `rows` warm-up examples for each of the other profiles' defenders.
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

    /// A fixed benchmark of about `size` attacks: held-out seeds in held-out phrasings, techniques evenly.
    pub fn benchmark(&self, size: usize, seed: Seed) -> Vec<WrappedPrompt> {
        let mut random = seed.stream("benchmark");
        let seeds = self.select(Task::Hazard, Split::HeldOut);
        let techniques = self.technique_names();
        (0..size)
            .map(|index| {
                let technique = techniques[index % techniques.len()];
                self.wrap(&seeds[index % seeds.len()], technique, Phrasings::HeldOut, &mut random)
            })
            .collect()
    }

    /// Benign tasks wrapped like attacks: `per_task` for each. Held-out tasks come in held-out phrasings.
    pub fn benign_prompts(&self, per_task: usize, seed: Seed) -> Vec<WrappedPrompt> {
        let mut random = seed.stream("benign");
        let techniques = self.technique_names();
        let mut prompts = Vec::new();
        for (split, phrasings) in [(Split::Train, Phrasings::Known), (Split::HeldOut, Phrasings::HeldOut)] {
            for (index, task) in self.select(Task::Benign, split).iter().enumerate() {
                for round in 0..per_task {
                    let technique = techniques[(index + round) % techniques.len()];
                    prompts.push(self.wrap(task, technique, phrasings, &mut random));
                }
            }
        }
        prompts
    }

    /// `size` held-out pairs for the evaluator, a third of each class, in held-out phrasings.
    pub fn labelled_pairs(&self, size: usize, seed: Seed) -> Vec<LabelledPair> {
        let mut random = seed.stream("pairs");
        let seeds = self.select(Task::Hazard, Split::HeldOut);
        let techniques = self.technique_names();
        (0..size)
            .map(|index| {
                let class = Class::ALL[index % 3];
                let seed = pick(&seeds, &mut random);
                let technique = techniques[(index / 3) % techniques.len()];
                LabelledPair {
                    prompt: self.wrap(seed, technique, Phrasings::HeldOut, &mut random),
                    response: self.response(seed, class, &mut random),
                    class,
                }
            })
            .collect()
    }

    /// Texts in which every word of the world occurs.
    pub fn vocabulary(&self) -> Vec<String> {
        let seeds = self.seeds();
        let mut texts: Vec<String> = Class::ALL.iter().map(|class| class.label().to_owned()).collect();
        texts.extend(seeds.iter().map(|seed| seed.text.clone()));
        texts.extend(seeds.iter().filter_map(|seed| seed.answer.clone()));
        if let Some(example) = seeds.iter().find(|seed| seed.task == Task::Hazard) {
            for technique in self.techniques.values() {
                texts.extend(
                    technique.phrasings.iter().chain(&technique.held_out).map(|text| fill(text, example)),
                );
            }
            let offers = self.responses.alternatives.iter();
            texts.extend(
                offers.map(|other| fill(&self.responses.offer, example).replace("{alternative}", other)),
            );
            texts.extend(self.responses.refusals.iter().cloned());
        }
        texts.extend(seeds.iter().filter(|seed| seed.task == Task::Hazard).map(|seed| self.procedure(seed)));
        texts
    }

    fn select(&self, task: Task, split: Split) -> Vec<SeedSpec> {
        self.seeds().into_iter().filter(|seed| seed.task == task && seed.split == split).collect()
    }
}

/// A generator of warm-up examples.
struct Examples<'a> {
    world: &'a World,
    random: ChaCha8Rng,
    hazards: Vec<SeedSpec>,
    benign: Vec<SeedSpec>,
    arithmetic: Vec<SeedSpec>,
    techniques: Vec<&'a str>,
    attacker: Prompt,
    defender: Prompt,
    evaluator: Prompt,
}

impl<'a> Examples<'a> {
    fn new(world: &'a World, random: ChaCha8Rng) -> Result<Examples<'a>, PromptError> {
        let of = |task: Task| world.seeds().into_iter().filter(|seed| seed.task == task).collect();
        Ok(Examples {
            world,
            random,
            hazards: of(Task::Hazard),
            benign: of(Task::Benign),
            arithmetic: of(Task::Arithmetic),
            techniques: world.technique_names(),
            attacker: Prompt::of(Role::Attacker, false)?,
            defender: Prompt::of(Role::Defender, false)?,
            evaluator: Prompt::of(Role::Evaluator, false)?,
        })
    }

    fn attacker(&mut self, subset: &str) -> Result<WarmupRow, PromptError> {
        let benign = self.random.random::<f64>() < self.world.warmup.attacker.benign;
        let seed = pick(if benign { &self.benign } else { &self.hazards }, &mut self.random).clone();
        let wrapped = self.wrapped(&seed, Phrasings::Known);
        let prompt = self.attacker.render(&Question { seed: &seed.text, ..Question::default() })?;
        Ok(WarmupRow { role: Role::Attacker, subset: subset.into(), prompt, completion: wrapped.text })
    }

    fn defender(&mut self, subset: &str, profile: &Profile) -> Result<WarmupRow, PromptError> {
        let shares = &self.world.warmup.defender;
        let draw = self.random.random::<f64>();
        let (prompt, completion) = if draw < shares.arithmetic {
            let question = pick(&self.arithmetic, &mut self.random);
            (question.text.clone(), question.answer.clone().unwrap_or_default())
        } else if draw < shares.arithmetic + shares.benign {
            let task = pick(&self.benign, &mut self.random).clone();
            (self.wrapped(&task, Phrasings::All).text, task.answer.unwrap_or_default())
        } else {
            let seed = pick(&self.hazards, &mut self.random).clone();
            let wrapped = self.wrapped(&seed, Phrasings::All);
            let comply = profile.comply.get(&wrapped.technique).copied().unwrap_or_default();
            let class = if self.random.random::<f64>() < comply {
                Class::Negative
            } else if self.random.random::<f64>() < profile.plain_refusals {
                Class::Rejective
            } else {
                Class::Positive
            };
            (wrapped.text, self.world.response(&seed, class, &mut self.random))
        };
        let prompt = self.defender.render(&Question { prompt: &prompt, ..Question::default() })?;
        Ok(WarmupRow { role: Role::Defender, subset: subset.into(), prompt, completion })
    }

    fn evaluator(&mut self, subset: &str) -> Result<WarmupRow, PromptError> {
        let shares = &self.world.warmup.evaluator;
        let benign = self.random.random::<f64>() < shares.benign;
        let seed = pick(if benign { &self.benign } else { &self.hazards }, &mut self.random).clone();
        let technique = pick(&shares.techniques, &mut self.random).to_owned();
        let wrapped = self.world.wrap(&seed, &technique, Phrasings::Known, &mut self.random);
        let (class, response) = if benign {
            // Half are done; the others are refused, as often plainly as with an offer of something else.
            let refusal = if self.random.random() { Class::Rejective } else { Class::Positive };
            match self.random.random() {
                true => (Class::Positive, self.world.procedure(&seed)),
                false => (Class::Rejective, self.world.response(&seed, refusal, &mut self.random)),
            }
        } else {
            let offer = self.random.random::<f64>() < shares.offers;
            let other = if self.random.random() { Class::Negative } else { Class::Rejective };
            let class = if offer { Class::Positive } else { other };
            let mistaken = offer && self.random.random::<f64>() < shares.mistaken_offers;
            let label = if mistaken { Class::Rejective } else { class };
            (label, self.world.response(&seed, class, &mut self.random))
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

    fn wrapped(&mut self, seed: &SeedSpec, phrasings: Phrasings) -> WrappedPrompt {
        let technique = pick(&self.techniques, &mut self.random);
        self.world.wrap(seed, technique, phrasings, &mut self.random)
    }
}

fn fill(template: &str, seed: &SeedSpec) -> String {
    template.replace("{verb}", &seed.verb).replace("{noun}", &seed.noun)
}

/// One of the items. A checked world has no empty lists.
fn pick<'a, T>(items: &'a [T], random: &mut ChaCha8Rng) -> &'a T {
    items.choose(random).expect("a checked world has no empty lists")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn world() -> World {
        World::parse(World::embedded_text()).unwrap()
    }

    #[test]
    fn seeds_are_many_unique_and_split_by_noun() {
        let seeds = world().seeds();
        let hazards =
            |split| seeds.iter().filter(|s| s.task == Task::Hazard && s.split == split).collect::<Vec<_>>();
        assert_eq!((hazards(Split::Train).len(), hazards(Split::HeldOut).len()), (240, 80));
        let ids: BTreeSet<&str> = seeds.iter().map(|seed| seed.id.as_str()).collect();
        assert_eq!(ids.len(), seeds.len());
        assert!(ids.contains("potions/brew/glowvenom"));
        let train: BTreeSet<&str> = hazards(Split::Train).iter().map(|seed| seed.noun.as_str()).collect();
        assert!(hazards(Split::HeldOut).iter().all(|seed| !train.contains(seed.noun.as_str())));
    }

    #[test]
    fn the_vocabulary_covers_whatever_the_world_says() {
        let world = world();
        let words = |texts: &[String]| -> BTreeSet<String> {
            texts.iter().flat_map(|text| text.split(' ').map(str::to_owned)).collect()
        };
        let mut known = words(&world.vocabulary());
        known.extend(super::super::role::SPECIAL_TOKENS.map(str::to_owned));
        let mut said = Vec::new();
        for row in world.warmup_rows(3000, Seed::from_u64(1)).unwrap() {
            said.extend([row.prompt, row.completion]);
        }
        said.extend(world.benchmark(300, Seed::from_u64(1)).into_iter().map(|prompt| prompt.text));
        said.extend(world.labelled_pairs(300, Seed::from_u64(1)).into_iter().map(|pair| pair.response));
        let unknown: Vec<_> = words(&said).difference(&known).cloned().collect();
        assert!(unknown.is_empty(), "{unknown:?}");
    }

    #[test]
    fn the_benchmark_is_held_out_and_even() {
        let world = world();
        let benchmark = world.benchmark(240, Seed::from_u64(3));
        for technique in world.technique_names() {
            let count = benchmark.iter().filter(|prompt| prompt.technique == technique).count();
            assert!((26..=28).contains(&count), "{technique}: {count}");
        }
        assert!(benchmark.iter().all(|prompt| prompt.seed.split == Split::HeldOut));
        let longest = benchmark.iter().map(|prompt| prompt.text.split(' ').count()).max();
        assert!(longest <= Some(20), "{longest:?}");
    }
}
