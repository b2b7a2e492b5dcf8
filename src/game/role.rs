//! The three roles and further judges, with the variables of their prompts.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A player, or a judge beside the game.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// M_Red: wraps a seed prompt.
    Attacker,
    /// M_Blue: responds to a prompt.
    Defender,
    /// M_Eval: classes a response as negative, rejective or positive.
    Evaluator,
    /// Not a player, and not trained in the game: judges whether an attack keeps the meaning of its seed prompt (R_sem).
    MeaningJudge,
    /// Not a player either: votes on the label from which an evaluator learns.
    Expert,
    /// Not a player either: judges which of two completions of one prompt is better.
    Arbiter,
}

/// Tokens of the default templates that a tokenizer must not split.
pub const SPECIAL_TOKENS: [&str; 5] = ["<attacker>", "<defender>", "<evaluator>", "<judge>", "<sep>"];

impl Role {
    /// The sandbox's prompt for this role. Earlier turns come before the last; for the attacker, after the seed prompt.
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

    /// The variables that a prompt for this role must use.
    pub(super) fn required_variables(self) -> &'static [&'static str] {
        match self {
            Role::Attacker => &["seed"],
            Role::Defender => &["prompt"],
            Role::Evaluator | Role::Expert => &["prompt", "response"],
            Role::MeaningJudge => &["seed", "prompt"],
            Role::Arbiter => &["first", "second"],
        }
    }

    /// The variables that it may use besides.
    pub(super) fn optional_variables(self) -> &'static [&'static str] {
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
