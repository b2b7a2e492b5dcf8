//! The three roles, who is asked beside them, and what each is asked about.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A player, or who is asked beside the game.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// M_Red: wraps a seed prompt.
    Attacker,
    /// M_Blue: answers a prompt.
    Defender,
    /// M_Eval: says of an answer whether it is negative, rejective or positive.
    Evaluator,
    /// No player, and never trained in the game: says whether an attack keeps its seed's meaning (R_sem).
    MeaningJudge,
    /// No player either: votes on the label that an evaluator learns from.
    Expert,
    /// No player either: says which of two completions of one prompt is better.
    Arbiter,
}

/// Tokens of the default templates that a tokenizer must not split.
pub const SPECIAL_TOKENS: [&str; 5] = ["<attacker>", "<defender>", "<evaluator>", "<judge>", "<sep>"];

impl Role {
    /// The sandbox's prompt for this role. Earlier turns stand before the last; the attacker sees them after the seed.
    pub fn default_prompt(self) -> &'static str {
        match self {
            Role::Attacker => {
                "<attacker> {{ seed }} <sep>{% for turn in conversation %} {{ turn.attack }} <sep> {{ turn.response }} <sep>{% endfor %}"
            }
            Role::Defender => {
                "<defender>{% for turn in conversation %} {{ turn.attack }} <sep> {{ turn.response }} <sep>{% endfor %} {{ prompt }} <sep>"
            }
            Role::Evaluator => {
                "<evaluator>{% for turn in conversation %} {{ turn.attack }} <sep> {{ turn.response }} <sep>{% endfor %} {{ prompt }} <sep> {{ response }} <sep>"
            }
            Role::Expert => "<evaluator> {{ prompt }} <sep> {{ response }} <sep>",
            Role::MeaningJudge => "<judge> {{ seed }} <sep> {{ prompt }} <sep>",
            Role::Arbiter => "<judge> {{ prompt }} <sep> {{ first }} <sep> {{ second }} <sep>",
        }
    }

    /// What a prompt for this role must use: without it the question would be about nothing.
    pub(super) fn asked_about(self) -> &'static [&'static str] {
        match self {
            Role::Attacker => &["seed"],
            Role::Defender => &["prompt"],
            Role::Evaluator | Role::Expert => &["prompt", "response"],
            Role::MeaningJudge => &["seed", "prompt"],
            Role::Arbiter => &["first", "second"],
        }
    }

    /// What it may use besides.
    pub(super) fn told_of(self) -> &'static [&'static str] {
        match self {
            Role::Attacker => &["techniques", "conversation"],
            Role::Evaluator => &["seed", "conversation"],
            Role::Expert => &["seed"],
            Role::Defender | Role::MeaningJudge => &["conversation"],
            Role::Arbiter => &["prompt", "seed", "first_response", "second_response"],
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Attacker => "attacker",
            Role::Defender => "defender",
            Role::Evaluator => "evaluator",
            Role::MeaningJudge => "meaning_judge",
            Role::Expert => "expert",
            Role::Arbiter => "arbiter",
        })
    }
}
