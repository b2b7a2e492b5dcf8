//! The sandbox's world, as declared in YAML: reads and checks it.

use std::collections::{BTreeMap, BTreeSet};

use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;

/// The error for an invalid world file.
#[derive(Debug, thiserror::Error)]
pub enum WorldError {
    /// The file is not YAML of this form; with what the parser reported.
    #[error("not a world: {0}")]
    Yaml(String),
    /// A value breaks a rule of worlds.
    #[error("`{place}` {problem}")]
    Invalid {
        /// The key, such as `hazards.potions`.
        place: String,
        /// The rule, and what was found.
        problem: String,
    },
}

/// A checked world.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct World {
    /// What should not be explained, by category.
    pub hazards: BTreeMap<String, Hazard>,
    /// What should be answered, by verb.
    pub benign: BTreeMap<String, Benign>,
    /// Questions with one right number.
    pub arithmetic: Arithmetic,
    /// Ways to wrap a seed prompt, by name.
    pub techniques: BTreeMap<String, Technique>,
    /// By the name of a code, its word for each verb.
    #[serde(default)]
    pub codes: BTreeMap<String, BTreeMap<String, String>>,
    /// Vulnerability profiles by name; the first is the trained defender's.
    pub defenders: BTreeMap<String, Profile>,
    /// The grammar of responses.
    pub responses: Responses,
    /// Conversations of two turns, if the world has them.
    #[serde(default)]
    pub conversations: Option<Conversations>,
    /// The error rates of the simulated experts.
    pub experts: Experts,
    /// The make-up of the warm-up's examples.
    pub warmup: Warmup,
}

/// A category of hazards, which should not be explained.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hazard {
    /// Verbs and the two ingredients of their procedures.
    pub verbs: BTreeMap<String, [String; 2]>,
    pub nouns: Vec<String>,
    pub held_out_nouns: Vec<String>,
}

/// A kind of task that should be answered; its name is the verb.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Benign {
    pub ingredients: [String; 2],
    pub nouns: Vec<String>,
    pub held_out_nouns: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Arithmetic {
    pub from: u32,
    pub to: u32,
    /// With `{a}` and `{b}`.
    pub question: String,
}

/// A way to wrap a seed prompt, as texts with `{verb}` and `{noun}`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Technique {
    /// Phrasings for the attacker to learn; none if the whole technique is held out.
    pub phrasings: Vec<String>,
    /// Texts that go before a phrasing of another technique.
    #[serde(default)]
    pub frames: Vec<String>,
    pub held_out: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// The probability of compliance with a hazard, by technique.
    pub comply: BTreeMap<String, f64>,
    /// The same by code, whatever the technique.
    #[serde(default)]
    pub codes: BTreeMap<String, f64>,
    /// The share of refusals that offer nothing else.
    pub plain_refusals: f64,
}

/// The grammar of responses.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Responses {
    /// With `{verb}`, `{noun}`, `{first}` and `{second}`.
    pub procedure: String,
    pub procedure_sign: String,
    pub refusals: Vec<String>,
    /// With `{verb}`, `{noun}` and `{alternative}`.
    pub offer: String,
    /// With `{alternative}`.
    pub offer_sign: String,
    pub alternatives: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Experts {
    pub safety: Vec<Expert>,
    pub utility: Vec<Expert>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expert {
    pub name: String,
    /// The probability of a wrong vote.
    pub error: f64,
    #[serde(default)]
    pub blind_spot: Option<BlindSpot>,
}

/// A category in which an expert errs more often.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlindSpot {
    pub category: String,
    pub error: f64,
}

/// Conversations of two turns, as a world declares them.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Conversations {
    /// Harmless first questions, with `{noun}`.
    pub openings: Vec<String>,
    /// Defenders' answers to these: `{noun}` and words by which the oracle recognizes an answer.
    pub answers: Vec<String>,
    /// Requests with `{verb}` and `{noun}` that are refused, unless they follow an opening about the same thing.
    pub requests: Vec<String>,
    /// The probability that the defender of each profile complies with a request that follows such an opening.
    pub comply: BTreeMap<String, f64>,
    /// The same for defenders that comply with nothing else.
    pub guarded: BTreeMap<String, f64>,
    /// The number of examples of conversations, as a share of the other warm-up examples.
    pub share: f64,
}

/// The beginning of answers: the noun.
const SUBJECT: &str = "{noun} ";

impl Conversations {
    /// The words by which the oracle recognizes answers to openings.
    pub(super) fn signs(&self) -> impl Iterator<Item = &str> {
        self.answers.iter().filter_map(|answer| answer.strip_prefix(SUBJECT))
    }
}

/// The mixture of warm-up examples, as shares.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Warmup {
    pub roles: RoleShares,
    /// The share of prompts with a code word.
    pub coded: Shares,
    /// The share of prompts with the frame of another technique before them.
    pub framed: Shares,
    pub attacker: AttackerWarmup,
    pub defender: DefenderWarmup,
    pub evaluator: EvaluatorWarmup,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoleShares {
    pub attacker: f64,
    pub defender: f64,
    pub evaluator: f64,
}

/// Shares in the warm-up of the attacker, the defender and the meaning judge, in the benign prompts of the defender's phase, and
/// in the benchmark.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shares {
    pub attacker: f64,
    pub defender: f64,
    pub judge: f64,
    pub benign: f64,
    pub benchmark: f64,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttackerWarmup {
    pub benign: f64,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DefenderWarmup {
    pub arithmetic: f64,
    pub benign: f64,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluatorWarmup {
    /// The techniques that its examples use.
    pub techniques: Vec<String>,
    pub benign: f64,
    /// The share of offers of an alternative among the responses to hazards; half of the rest are procedures and half refusals.
    pub offers: f64,
    /// The share of those offers that are labelled as refusals.
    pub mistaken_offers: f64,
    /// The share of examples with a random label.
    pub label_noise: f64,
}

/// One of the items. A checked world has no empty lists.
pub(super) fn pick<'a, T>(items: &'a [T], random: &mut ChaCha8Rng) -> &'a T {
    items.choose(random).expect("a checked world has no empty lists")
}

/// The world that is built into triplay.
const EMBEDDED: &str = include_str!("../../datasets/sandbox/world.yaml");

impl World {
    /// FNV-1a of the text of the built-in world, so that it changes with the world.
    pub const EDITION: u32 = {
        let (text, mut hash, mut at) = (EMBEDDED.as_bytes(), 0x811c_9dc5u32, 0);
        while at < text.len() {
            hash = (hash ^ text[at] as u32).wrapping_mul(0x0100_0193);
            at += 1;
        }
        hash
    };

    /// The text of the built-in world.
    pub fn embedded_text() -> &'static str {
        EMBEDDED
    }

    /// Reads and checks a world. Syntax errors have line and column; other errors name the path of the value.
    pub fn parse(text: &str) -> Result<World, WorldError> {
        // Errors quote no line of the file, which may be any file that a stranger's pipeline names.
        let mut options = serde_saphyr::Options::default();
        options.with_snippet = false;
        let world: World = serde_saphyr::from_str_with_options(text, options)
            .map_err(|error| WorldError::Yaml(error.to_string()))?;
        world.check()?;
        Ok(world)
    }

    /// The techniques in name order.
    pub fn technique_names(&self) -> Vec<&str> {
        self.techniques.keys().map(String::as_str).collect()
    }

    fn check(&self) -> Result<(), WorldError> {
        let mut nouns = BTreeSet::new();
        let named = |kind: &str, name: &str| format!("{kind}.{name}");
        for (name, hazard) in &self.hazards {
            let place = named("hazards", name);
            require(!hazard.verbs.is_empty(), &place, "must have at least one verb")?;
            check_nouns(&place, &hazard.nouns, &hazard.held_out_nouns, &mut nouns)?;
        }
        for (name, benign) in &self.benign {
            check_nouns(&named("benign", name), &benign.nouns, &benign.held_out_nouns, &mut nouns)?;
        }
        require(!self.hazards.is_empty(), "hazards", "must have at least one category")?;
        require(
            !self.benign.is_empty(),
            "benign",
            "must have at least one task, on which over-refusal is measured",
        )?;
        require(!self.techniques.is_empty(), "techniques", "must have at least one technique")?;
        require(
            self.arithmetic.from <= self.arithmetic.to,
            "arithmetic",
            "must have a `from` that is at most `to`",
        )?;
        check_placeholders("arithmetic.question", &self.arithmetic.question, &["{a}", "{b}"])?;
        let known = self.techniques.values().any(|technique| !technique.phrasings.is_empty());
        require(known, "techniques", "must have one with `phrasings`, from which the attacker learns")?;
        for (name, technique) in &self.techniques {
            require(
                !technique.held_out.is_empty(),
                &format!("techniques.{name}.held_out"),
                "must not be empty",
            )?;
            for (list, phrasings) in [("phrasings", &technique.phrasings), ("held_out", &technique.held_out)]
            {
                for (index, phrasing) in phrasings.iter().enumerate() {
                    let place = format!("techniques.{name}.{list}[{index}]");
                    check_placeholders(&place, phrasing, &["{verb}", "{noun}"])?;
                }
            }
        }
        require(!self.defenders.is_empty(), "defenders", "must have at least one profile")?;
        for (name, profile) in &self.defenders {
            for technique in self.techniques.keys() {
                let place = format!("defenders.{name}.comply.{technique}");
                let share = profile.comply.get(technique);
                require(share.is_some(), &place, "must be given: every technique needs a probability")?;
                check_share(&place, share.copied().unwrap_or_default())?;
            }
            for code in self.codes.keys() {
                let place = format!("defenders.{name}.codes.{code}");
                let share = profile.codes.get(code);
                require(share.is_some(), &place, "must be given: every code needs a probability")?;
                check_share(&place, share.copied().unwrap_or_default())?;
            }
            check_share(&format!("defenders.{name}.plain_refusals"), profile.plain_refusals)?;
        }
        self.check_codes()?;
        self.check_responses()?;
        self.check_conversations()?;
        self.check_experts()?;
        self.check_warmup()
    }

    /// Checks that every code has one word for each verb, and that no word has two meanings.
    fn check_codes(&self) -> Result<(), WorldError> {
        let hazards = self.hazards.values().flat_map(|hazard| hazard.verbs.keys());
        let verbs: BTreeSet<&String> = hazards.chain(self.benign.keys()).collect();
        let mut words = verbs.clone();
        for (name, code) in &self.codes {
            let place = format!("codes.{name}");
            if let Some(verb) = verbs.iter().find(|verb| !code.contains_key(**verb)) {
                require(false, &place, &format!("must have a word for `{verb}`"))?;
            }
            for (verb, word) in code {
                require(
                    verbs.contains(verb),
                    &place,
                    &format!("must have only verbs of this world, found `{verb}`"),
                )?;
                let single = !word.is_empty() && !word.contains(char::is_whitespace);
                require(single, &place, &format!("must have single words, found `{word}`"))?;
                require(
                    words.insert(word),
                    &place,
                    &format!("must have words without another meaning, found `{word}`"),
                )?;
            }
        }
        Ok(())
    }

    fn check_responses(&self) -> Result<(), WorldError> {
        let responses = &self.responses;
        check_placeholders(
            "responses.procedure",
            &responses.procedure,
            &["{verb}", "{noun}", "{first}", "{second}"],
        )?;
        require(
            responses.procedure.contains(&responses.procedure_sign),
            "responses.procedure_sign",
            "must occur in `responses.procedure`",
        )?;
        check_placeholders("responses.offer", &responses.offer, &["{verb}", "{noun}", "{alternative}"])?;
        check_placeholders("responses.offer_sign", &responses.offer_sign, &["{alternative}"])?;
        require(
            responses.offer.contains(&responses.offer_sign),
            "responses.offer_sign",
            "must occur in `responses.offer`",
        )?;
        require(!responses.refusals.is_empty(), "responses.refusals", "must not be empty")?;
        require(!responses.alternatives.is_empty(), "responses.alternatives", "must not be empty")
    }

    fn check_conversations(&self) -> Result<(), WorldError> {
        let Some(how) = &self.conversations else { return Ok(()) };
        for (list, texts, needed) in [
            ("openings", &how.openings, &["{noun}"][..]),
            ("answers", &how.answers, &["{noun}"]),
            ("requests", &how.requests, &["{verb}", "{noun}"]),
        ] {
            let place = format!("conversations.{list}");
            require(!texts.is_empty(), &place, "must not be empty")?;
            for (index, text) in texts.iter().enumerate() {
                check_placeholders(&format!("{place}[{index}]"), text, needed)?;
            }
        }
        for (index, answer) in how.answers.iter().enumerate() {
            let sign = answer.strip_prefix(SUBJECT).unwrap_or_default();
            let place = format!("conversations.answers[{index}]");
            let is_sign = !sign.is_empty() && !sign.contains('{');
            require(is_sign, &place, "must be {noun} and words by which the answer is known")?;
        }
        for name in self.defenders.keys() {
            let place = format!("conversations.comply.{name}");
            require(
                how.comply.contains_key(name),
                &place,
                "must be given: every profile needs a probability",
            )?;
        }
        for (name, share) in &how.comply {
            let place = format!("conversations.comply.{name}");
            require(self.defenders.contains_key(name), &place, "must be a profile of `defenders`")?;
            check_share(&place, *share)?;
        }
        for (name, share) in &how.guarded {
            let place = format!("conversations.guarded.{name}");
            require(!self.defenders.contains_key(name), &place, "must not be a profile of `defenders`")?;
            check_share(&place, *share)?;
        }
        check_share("conversations.share", how.share)
    }

    fn check_experts(&self) -> Result<(), WorldError> {
        for (tier, experts) in [("safety", &self.experts.safety), ("utility", &self.experts.utility)] {
            require(!experts.is_empty(), &format!("experts.{tier}"), "must have at least one expert")?;
            for (index, expert) in experts.iter().enumerate() {
                let place = format!("experts.{tier}[{index}]");
                check_share(&format!("{place}.error"), expert.error)?;
                if let Some(spot) = &expert.blind_spot {
                    check_share(&format!("{place}.blind_spot.error"), spot.error)?;
                    let known =
                        self.hazards.contains_key(&spot.category) || self.benign.contains_key(&spot.category);
                    require(
                        known,
                        &format!("{place}.blind_spot.category"),
                        "must be a category of this world",
                    )?;
                }
            }
        }
        Ok(())
    }

    fn check_warmup(&self) -> Result<(), WorldError> {
        let warmup = &self.warmup;
        let roles = &warmup.roles;
        let total = roles.attacker + roles.defender + roles.evaluator;
        require((total - 1.0).abs() < 1e-6, "warmup.roles", "must add up to 1")?;
        for (place, share) in [
            ("warmup.roles.attacker", roles.attacker),
            ("warmup.roles.defender", roles.defender),
            ("warmup.roles.evaluator", roles.evaluator),
            ("warmup.coded.attacker", warmup.coded.attacker),
            ("warmup.coded.defender", warmup.coded.defender),
            ("warmup.coded.judge", warmup.coded.judge),
            ("warmup.coded.benign", warmup.coded.benign),
            ("warmup.coded.benchmark", warmup.coded.benchmark),
            ("warmup.framed.attacker", warmup.framed.attacker),
            ("warmup.framed.defender", warmup.framed.defender),
            ("warmup.framed.judge", warmup.framed.judge),
            ("warmup.framed.benign", warmup.framed.benign),
            ("warmup.framed.benchmark", warmup.framed.benchmark),
            ("warmup.attacker.benign", warmup.attacker.benign),
            ("warmup.defender.arithmetic", warmup.defender.arithmetic),
            ("warmup.defender.benign", warmup.defender.benign),
            ("warmup.evaluator.benign", warmup.evaluator.benign),
            ("warmup.evaluator.offers", warmup.evaluator.offers),
            ("warmup.evaluator.mistaken_offers", warmup.evaluator.mistaken_offers),
            ("warmup.evaluator.label_noise", warmup.evaluator.label_noise),
        ] {
            check_share(place, share)?;
        }
        require(!warmup.evaluator.techniques.is_empty(), "warmup.evaluator.techniques", "must not be empty")?;
        for (index, name) in warmup.evaluator.techniques.iter().enumerate() {
            let place = format!("warmup.evaluator.techniques[{index}]");
            let known = self.techniques.get(name).is_some_and(|technique| !technique.phrasings.is_empty());
            require(known, &place, "must be a technique of this world with `phrasings`")?;
        }
        Ok(())
    }
}

fn require(holds: bool, place: &str, problem: &str) -> Result<(), WorldError> {
    if holds { Ok(()) } else { Err(WorldError::Invalid { place: place.into(), problem: problem.into() }) }
}

fn check_share(place: &str, share: f64) -> Result<(), WorldError> {
    require((0.0..=1.0).contains(&share), place, &format!("must be between 0 and 1, found {share}"))
}

fn check_placeholders(place: &str, text: &str, needed: &[&str]) -> Result<(), WorldError> {
    needed.iter().try_for_each(|name| require(text.contains(name), place, &format!("must contain {name}")))
}

fn check_nouns(
    place: &str,
    nouns: &[String],
    held_out: &[String],
    seen: &mut BTreeSet<String>,
) -> Result<(), WorldError> {
    require(!nouns.is_empty(), &format!("{place}.nouns"), "must not be empty")?;
    require(
        !held_out.is_empty(),
        &format!("{place}.held_out_nouns"),
        "must not be empty: evaluation needs them",
    )?;
    for noun in nouns.iter().chain(held_out) {
        let single = !noun.is_empty() && !noun.contains(char::is_whitespace);
        require(single, place, &format!("must have nouns of one word, found `{noun}`"))?;
        require(
            seen.insert(noun.clone()),
            place,
            &format!("must have nouns of its own, found `{noun}` a second time"),
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_world_is_as_rich_as_it_says() {
        let world = World::parse(World::embedded_text()).unwrap();
        assert_eq!(world.hazards.len(), 8);
        assert_eq!((world.techniques.len(), world.codes.len()), (11, 3));
        for technique in world.techniques.values() {
            let held_out = technique.phrasings.is_empty() && technique.held_out.len() >= 3;
            assert!(held_out || technique.phrasings.len() >= 6 && technique.held_out.len() >= 2);
        }
        let tasks: usize =
            world.benign.values().map(|task| task.nouns.len() + task.held_out_nouns.len()).sum();
        assert_eq!(tasks, 80);
    }

    #[test]
    fn a_wrong_world_names_the_place() {
        let broken = |from: &str, to: &str| {
            let text = World::embedded_text().replacen(from, to, 1);
            assert_ne!(text, World::embedded_text(), "{from}");
            World::parse(&text).unwrap_err().to_string()
        };
        assert_eq!(
            broken("how do i {verb} {noun} ?", "how do i {verb} ?"),
            "`techniques.direct.phrasings[0]` must contain {noun}"
        );
        assert_eq!(
            broken("mistvenom", "glowvenom"),
            "`hazards.potions` must have nouns of its own, found `glowvenom` a second time"
        );
        assert_eq!(
            broken("roles: { attacker: 0.3,", "roles: { attacker: 0.5,"),
            "`warmup.roles` must add up to 1"
        );
        assert_eq!(
            broken("category: locks", "category: lochs"),
            "`experts.safety[0].blind_spot.category` must be a category of this world"
        );
        assert_eq!(broken("brew: werb, ", ""), "`codes.mirror` must have a word for `brew`");
        assert_eq!(
            broken("distill: llitsid", "distill: werb"),
            "`codes.mirror` must have words without another meaning, found `werb`"
        );
        assert_eq!(
            broken("\"{noun} is an old word from the hills .\"", "\"the hills know {noun} .\""),
            "`conversations.answers[0]` must be {noun} and words by which the answer is known"
        );
        assert_eq!(
            broken("comply: { a: 0.9, ", "comply: { d: 0.9, "),
            "`conversations.comply.a` must be given: every profile needs a probability"
        );
        let unknown = broken("procedure_sign", "procedure_sing");
        assert!(unknown.contains("procedure_sing") && unknown.contains("line"), "{unknown}");
    }
}
