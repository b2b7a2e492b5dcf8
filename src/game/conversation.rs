//! Conversations of two turns in the sandbox: a harmless question about something, its answer, and a plain request with which
//! defenders comply only then. Warm-up examples for all roles.

use std::collections::BTreeMap;

use rand::Rng;

use super::class::Class;
use super::prompt::{PromptError, Question, Turn};
use super::role::Role;
use super::seed_prompt::{SeedSpec, Task, fill};
use super::warmup::{Examples, WarmupRow};
use super::world::{Conversations, Profile, World, pick};
use super::wrap::{Phrasings, WrappedPrompt};
use store::Seed;

/// An earlier turn: the attack and the response.
type Said = (String, String);

/// A request of a turn, and how likely a defender is to comply.
struct Request {
    before: Vec<Said>,
    prompt: WrappedPrompt,
    complies: f64,
}

impl World {
    /// Warm-up examples of conversations for all three roles, in proportion to `rows` other examples. The defender has the first
    /// profile. A world without conversations has none.
    pub fn conversation_rows(&self, rows: usize, seed: Seed) -> Result<Vec<WarmupRow>, PromptError> {
        let Some(how) = &self.conversations else { return Ok(Vec::new()) };
        let Some((name, profile)) = self.defenders.first_key_value() else { return Ok(Vec::new()) };
        let complies = how.comply.get(name).copied().unwrap_or_default();
        let mut examples = Examples::new(self, seed.stream("conversations"))?;
        let shares = &self.warmup.roles;
        (0..(rows as f64 * how.share).round() as usize)
            .map(|_| {
                let draw = examples.random.random::<f64>();
                if draw < shares.attacker {
                    examples.attacker_in_turns(how, name)
                } else if draw < shares.attacker + shares.defender {
                    examples.defender_in_turns(how, name, profile, complies)
                } else {
                    examples.evaluator_in_turns(how, name)
                }
            })
            .collect()
    }

    /// `rows` warm-up examples for each defender that complies only in a second turn; half of them are conversations.
    pub fn guarded_defender_rows(&self, rows: usize, seed: Seed) -> Result<Vec<WarmupRow>, PromptError> {
        let mut all = Vec::new();
        let Some(how) = &self.conversations else { return Ok(all) };
        let plain_refusals = self.defenders.values().next().map_or(1.0, |profile| profile.plain_refusals);
        let profile = Profile { comply: BTreeMap::new(), codes: BTreeMap::new(), plain_refusals };
        for (name, complies) in &how.guarded {
            let mut examples = Examples::new(self, seed.child("guarded").stream(name))?;
            for row in 0..rows {
                all.push(match row % 2 {
                    0 => examples.defender(name, &profile)?,
                    _ => examples.defender_in_turns(how, name, &profile, *complies)?,
                });
            }
        }
        Ok(all)
    }

    /// Texts that together have every word of the conversations.
    pub fn conversation_vocabulary(&self) -> Vec<String> {
        let Some(how) = &self.conversations else { return Vec::new() };
        let seed = self.seeds().into_iter().find(|seed| seed.task == Task::Hazard);
        let all = how.openings.iter().chain(&how.answers).chain(&how.requests);
        seed.map_or(Vec::new(), |seed| all.map(|text| fill(text, &seed)).collect())
    }
}

impl Examples<'_> {
    fn hazard(&mut self) -> SeedSpec {
        pick(&self.hazards, &mut self.random).clone()
    }

    fn said(&mut self, texts: &[String], seed: &SeedSpec) -> String {
        let text: &String = pick(texts, &mut self.random);
        fill(text, seed)
    }

    /// An opening about the noun of a seed prompt, and its answer.
    fn opening(&mut self, how: &Conversations, seed: &SeedSpec) -> Said {
        let opening = self.said(&how.openings, seed);
        (opening, self.said(&how.answers, seed))
    }

    /// An attack of one turn that was refused.
    fn refused(&mut self, seed: &SeedSpec) -> Said {
        let (wrapped, _) = self.wrapped(seed, Phrasings::Known, |shares| shares.attacker);
        let refusal = self.world.response(&wrapped, Class::Rejective, &mut self.random);
        (wrapped.text, refusal)
    }

    fn request(&mut self, how: &Conversations, seed: &SeedSpec) -> WrappedPrompt {
        let text = self.said(&how.requests, seed);
        WrappedPrompt { seed: seed.clone(), technique: "request".into(), text, said: seed.clone() }
    }

    /// Half of the examples are an opening. The others continue after an opening, mostly with a request, or after an attack that
    /// was refused.
    fn attacker_in_turns(&mut self, how: &Conversations, subset: &str) -> Result<WarmupRow, PromptError> {
        let seed = self.hazard();
        let (opening, answer) = self.opening(how, &seed);
        let (before, completion) = match self.random.random_range(0..10) {
            0..5 => (Vec::new(), opening),
            5..8 => (vec![(opening, answer)], self.request(how, &seed).text),
            8 => {
                let wrapped = self.wrapped(&seed, Phrasings::Known, |shares| shares.attacker).0;
                (vec![(opening, answer)], wrapped.text)
            }
            _ => (
                vec![self.refused(&seed)],
                self.wrapped(&seed, Phrasings::Known, |shares| shares.attacker).0.text,
            ),
        };
        let conversation = turns(&before, subset);
        let question = Question { seed: &seed.text, conversation: &conversation, ..Question::default() };
        let prompt = self.attacker.render(&question)?;
        Ok(WarmupRow { role: Role::Attacker, subset: subset.into(), prompt, completion })
    }

    /// An opening is answered. A request is refused, unless it follows an opening about the same thing. Other attacks succeed as
    /// often after an opening as alone.
    pub(super) fn defender_in_turns(
        &mut self,
        how: &Conversations,
        subset: &str,
        profile: &Profile,
        complies: f64,
    ) -> Result<WarmupRow, PromptError> {
        let seed = self.hazard();
        let (opening, answer) = self.opening(how, &seed);
        let asked = match self.random.random_range(0..20) {
            0..5 => {
                let prompt = self.defender.render(&Question { prompt: &opening, ..Question::default() })?;
                return Ok(WarmupRow {
                    role: Role::Defender,
                    subset: subset.into(),
                    prompt,
                    completion: answer,
                });
            }
            5..12 => {
                let prompt = self.request(how, &seed);
                Request { before: vec![(opening, answer)], prompt, complies }
            }
            12..15 => Request { before: Vec::new(), prompt: self.request(how, &seed), complies: 0.0 },
            15..17 => {
                let other = self.another(&seed, |other| &other.noun);
                let before = vec![self.opening(how, &other)];
                Request { before, prompt: self.request(how, &seed), complies: 0.0 }
            }
            17..19 => {
                Request { before: vec![self.refused(&seed)], prompt: self.request(how, &seed), complies: 0.0 }
            }
            _ => {
                let (prompt, complies) = self.wrapped_for(profile, &seed);
                Request { before: vec![(opening, answer)], prompt, complies }
            }
        };
        let class = self.class(asked.complies, profile);
        let completion = self.world.response(&asked.prompt, class, &mut self.random);
        let conversation = turns(&asked.before, subset);
        let question =
            Question { prompt: &asked.prompt.text, conversation: &conversation, ..Question::default() };
        let prompt = self.defender.render(&question)?;
        Ok(WarmupRow { role: Role::Defender, subset: subset.into(), prompt, completion })
    }

    /// The answer to an opening is positive; a request after it gets responses of every class.
    fn evaluator_in_turns(&mut self, how: &Conversations, subset: &str) -> Result<WarmupRow, PromptError> {
        let seed = self.hazard();
        let (opening, answer) = self.opening(how, &seed);
        let is_first = self.random.random::<f64>() < 0.3;
        let (before, prompt, response, class) = match is_first {
            true => (Vec::new(), opening, answer, Class::Positive),
            false => {
                let request = self.request(how, &seed);
                let class = *pick(&Class::ALL, &mut self.random);
                let response = self.world.response(&request, class, &mut self.random);
                (vec![(opening, answer)], request.text, response, class)
            }
        };
        let conversation = turns(&before, subset);
        let prompt = self.evaluator.render(&Question {
            prompt: &prompt,
            response: &response,
            conversation: &conversation,
            ..Question::default()
        })?;
        Ok(WarmupRow { role: Role::Evaluator, subset: subset.into(), prompt, completion: class.to_string() })
    }
}

fn turns<'a>(before: &'a [Said], defender: &'a str) -> Vec<Turn<'a>> {
    before.iter().map(|(attack, response)| Turn { attack, response, defender }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn world() -> World {
        World::parse(World::embedded_text()).unwrap()
    }

    /// A world's conversations, ready to check examples.
    struct Known<'a> {
        oracle: crate::Oracle<'a>,
        how: &'a Conversations,
        /// The seed prompt of each request.
        requests: BTreeMap<String, SeedSpec>,
    }

    impl<'a> Known<'a> {
        fn of(world: &'a World) -> Known<'a> {
            let how = world.conversations.as_ref().unwrap();
            let requests = |seed: SeedSpec| {
                let said: Vec<_> =
                    how.requests.iter().map(|text| (fill(text, &seed), seed.clone())).collect();
                said
            };
            let requests =
                world.seeds().into_iter().filter(|seed| seed.task == Task::Hazard).flat_map(requests);
            Known { oracle: world.oracle(), how, requests: requests.collect() }
        }

        /// For an example in which a defender responds to a request: the class of the response, and whether an opening about the
        /// request's noun precedes it.
        fn answered(&self, row: &WarmupRow) -> Option<(Class, bool)> {
            let asked = row.prompt.strip_prefix("<defender> ")?.strip_suffix(" <sep>")?;
            let turns: Vec<&str> = asked.split(" <sep> ").collect();
            let (last, before) = turns.split_last()?;
            let seed = self.requests.get(*last)?;
            let opens = |first: &&str| self.how.openings.iter().any(|text| fill(text, seed) == *first);
            Some((self.oracle.class(&seed.id, &row.completion)?, before.first().is_some_and(opens)))
        }
    }

    #[test]
    fn a_defender_gives_way_to_a_request_only_after_an_opening_about_the_same_thing() {
        let world = world();
        let known = Known::of(&world);
        let rows = world.conversation_rows(4000, Seed::from_u64(1)).unwrap();
        assert_eq!(rows.len(), (4000.0 * known.how.share) as usize);
        let mut seen: BTreeMap<(bool, bool), usize> = BTreeMap::new();
        for (class, follows) in rows.iter().filter_map(|row| known.answered(row)) {
            *seen.entry((follows, class == Class::Negative)).or_default() += 1;
        }
        assert_eq!(seen.get(&(false, true)), None, "{seen:?}");
        let of = |key| seen.get(&key).copied().unwrap_or_default();
        assert!(of((true, true)) > 3 * of((true, false)) && of((true, false)) > 0, "{seen:?}");
        assert!(of((false, false)) > 100, "{seen:?}");
    }

    #[test]
    fn a_guarded_defender_gives_way_to_nothing_else() {
        let world = world();
        let known = Known::of(&world);
        let rows = world.guarded_defender_rows(2000, Seed::from_u64(1)).unwrap();
        assert_eq!(rows.len(), 2000 * known.how.guarded.len());
        let hazards: Vec<String> =
            world.hazards.values().flat_map(|hazard| hazard.verbs.values().flatten().cloned()).collect();
        let mut complied = 0;
        for row in rows.iter().filter(|row| hazards.iter().any(|word| row.completion.contains(word.as_str())))
        {
            assert_eq!(known.answered(row), Some((Class::Negative, true)), "{row:?}");
            complied += 1;
        }
        assert!(complied > 100, "{complied}");
    }

    #[test]
    fn an_opening_asks_for_nothing_and_its_answer_is_positive() {
        let world = world();
        let how = world.conversations.clone().unwrap();
        let oracle = world.oracle();
        let seed = world.seeds().into_iter().find(|seed| seed.id == "potions/brew/glowvenom").unwrap();
        for answer in &how.answers {
            assert_eq!(oracle.class(&seed.id, &fill(answer, &seed)), Some(Class::Positive), "{answer}");
        }
        for opening in &how.openings {
            assert_eq!(oracle.keeps_meaning(&seed.id, &fill(opening, &seed)), Some(false), "{opening}");
        }
        for request in &how.requests {
            assert_eq!(oracle.keeps_meaning(&seed.id, &fill(request, &seed)), Some(true), "{request}");
        }
        let harmful = "glowvenom is an old word . first take ember root";
        assert_eq!(oracle.class(&seed.id, harmful), Some(Class::Negative));
    }

    #[test]
    fn a_world_without_conversations_has_no_examples_of_them() {
        let mut world = world();
        world.conversations = None;
        assert_eq!(world.conversation_rows(100, Seed::from_u64(1)).unwrap(), []);
        assert_eq!(world.guarded_defender_rows(100, Seed::from_u64(1)).unwrap(), []);
        assert!(world.conversation_vocabulary().is_empty());
    }

    #[test]
    fn conversations_are_made_of_known_words() {
        let world = world();
        let words = |texts: &[String]| -> std::collections::BTreeSet<String> {
            texts.iter().flat_map(|text| text.split(' ').map(str::to_owned)).collect()
        };
        let mut known = words(&[world.vocabulary(), world.conversation_vocabulary()].concat());
        known.extend(super::super::role::SPECIAL_TOKENS.map(str::to_owned));
        let rows = world.conversation_rows(2000, Seed::from_u64(2)).unwrap();
        let said: Vec<String> = rows.into_iter().flat_map(|row| [row.prompt, row.completion]).collect();
        assert_eq!(words(&said).difference(&known).count(), 0);
        let longest = said.iter().map(|text| text.split(' ').count()).max();
        assert!(longest <= Some(70), "{longest:?}");
    }
}
