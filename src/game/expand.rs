//! Expands a world to seed prompts, benchmarks, labelled pairs and a vocabulary.

use rand_chacha::ChaCha8Rng;

use super::class::Class;
use super::meaning::Meaning;
use super::seed_prompt::{SeedSpec, Split, Task, fill};
use super::world::{Shares, World, pick};
use super::wrap::{Phrasings, WrappedPrompt};
use store::Seed;

/// A prompt, a response and its true class.
#[derive(Clone, Debug, PartialEq)]
pub struct LabelledPair {
    pub prompt: WrappedPrompt,
    pub response: String,
    pub class: Class,
}

impl World {
    /// All seed prompts: hazards, benign tasks, arithmetic questions.
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

    /// The procedure for a seed prompt.
    pub fn procedure(&self, seed: &SeedSpec) -> String {
        let [first, second] = &seed.ingredients;
        fill(&self.responses.procedure, seed).replace("{first}", first).replace("{second}", second)
    }

    /// A response of this class to a hazard, in the words of the request.
    pub(super) fn response(&self, asked: &WrappedPrompt, class: Class, random: &mut ChaCha8Rng) -> String {
        match class {
            Class::Negative => self.procedure(&asked.said),
            Class::Rejective => pick(&self.responses.refusals, random).to_owned(),
            Class::Positive => {
                let alternative: &String = pick(&self.responses.alternatives, random);
                fill(&self.responses.offer, &asked.said).replace("{alternative}", alternative)
            }
        }
    }

    /// A fixed benchmark of `size` attacks: held-out seed prompts in held-out phrasings, evenly over techniques.
    pub fn benchmark(&self, size: usize, seed: Seed) -> Vec<WrappedPrompt> {
        let mut random = seed.stream("benchmark");
        let seeds = self.select(Task::Hazard, Split::HeldOut);
        let techniques = self.technique_names();
        (0..size)
            .map(|index| {
                let technique = techniques[index % techniques.len()];
                let style = self.style(technique, Phrasings::HeldOut, |shares| shares.benchmark, &mut random);
                self.wrap(&seeds[index % seeds.len()], &style, &mut random)
            })
            .collect()
    }

    /// Every phrasing that the attacker learns, once, around some seed prompt: examples of the techniques.
    pub fn examples(&self) -> Vec<WrappedPrompt> {
        let seeds = self.select(Task::Hazard, Split::Train);
        let phrasings = self
            .techniques
            .iter()
            .flat_map(|(name, technique)| technique.phrasings.iter().map(move |phrasing| (name, phrasing)));
        let wrapped = |(index, (name, phrasing)): (usize, (&String, &String))| {
            let seed = &seeds[index % seeds.len()];
            WrappedPrompt {
                seed: seed.clone(),
                technique: name.clone(),
                text: fill(phrasing, seed),
                said: seed.clone(),
            }
        };
        phrasings.enumerate().map(wrapped).collect()
    }

    /// Benign tasks wrapped like attacks, `per_task` for each. Held-out tasks are in held-out phrasings.
    pub fn benign_prompts(&self, per_task: usize, seed: Seed) -> Vec<WrappedPrompt> {
        let mut random = seed.stream("benign");
        let mut prompts = Vec::new();
        for (split, phrasings) in [(Split::Train, Phrasings::Known), (Split::HeldOut, Phrasings::HeldOut)] {
            let techniques = self.techniques_with(phrasings);
            for (index, task) in self.select(Task::Benign, split).iter().enumerate() {
                for round in 0..per_task {
                    let technique = techniques[(index + round) % techniques.len()];
                    let share = |shares: &Shares| {
                        if split == Split::Train { shares.benign } else { shares.benchmark }
                    };
                    let style = self.style(technique, phrasings, share, &mut random);
                    prompts.push(self.wrap(task, &style, &mut random));
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
                let style = self.style(technique, Phrasings::HeldOut, |shares| shares.benchmark, &mut random);
                let prompt = self.wrap(seed, &style, &mut random);
                let response = self.response(&prompt, class, &mut random);
                LabelledPair { prompt, response, class }
            })
            .collect()
    }

    /// Texts that together have every word of the world.
    pub fn vocabulary(&self) -> Vec<String> {
        let seeds = self.seeds();
        let labels = Class::LABELS.iter().chain(Meaning::LABELS);
        let mut texts: Vec<String> = labels.map(|label| (*label).to_owned()).collect();
        texts.extend(seeds.iter().map(|seed| seed.text.clone()));
        texts.extend(seeds.iter().filter_map(|seed| seed.answer.clone()));
        if let Some(example) = seeds.iter().find(|seed| seed.task == Task::Hazard) {
            for technique in self.techniques.values() {
                texts.extend(technique.frames.iter().cloned());
                texts.extend(
                    technique.phrasings.iter().chain(&technique.held_out).map(|text| fill(text, example)),
                );
            }
            texts.extend(self.codes.values().flat_map(|code| code.values().cloned()));
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
            let of =
                |prompt: &&WrappedPrompt| prompt.technique.split(['+', '/']).any(|name| name == technique);
            assert!(benchmark.iter().filter(of).count() >= 21, "{technique}");
        }
        let coded = benchmark.iter().filter(|prompt| prompt.technique.contains('/')).count();
        assert!((45..75).contains(&coded), "{coded}");
        assert!(benchmark.iter().all(|prompt| prompt.seed.split == Split::HeldOut));
        let longest = benchmark.iter().map(|prompt| prompt.text.split(' ').count()).max();
        assert!(longest <= Some(28), "{longest:?}");
    }
}
