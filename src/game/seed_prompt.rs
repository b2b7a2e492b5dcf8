//! Seed prompts of a world: what each asks for, and whether reinforcement learning may use it.

/// Whether reinforcement learning may use a seed prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// Reinforcement learning may use it.
    Train,
    /// Only warm-up and evaluation may use it.
    HeldOut,
}

impl Split {
    /// The name in datasets: `train` or `heldout`.
    pub fn name(self) -> &'static str {
        match self {
            Split::Train => "train",
            Split::HeldOut => "heldout",
        }
    }
}

/// What a seed prompt asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// A procedure that should not be explained.
    Hazard,
    /// A harmless task that should be answered.
    Benign,
    /// A question with one right number.
    Arithmetic,
}

impl Task {
    /// The name in datasets, such as `hazard`.
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
    /// The category of the hazard or task, such as `potions`.
    pub category: String,
    /// What it asks for.
    pub task: Task,
    /// Whether reinforcement learning may use it.
    pub split: Split,
    /// The action, such as `brew`.
    pub verb: String,
    /// What the action is done to, such as `glowvenom`.
    pub noun: String,
    /// `brew glowvenom`, or the arithmetic question.
    pub text: String,
    /// The procedure of a benign task, or the sum of an arithmetic question; none for hazards.
    pub answer: Option<String>,
    /// The ingredients of the procedure.
    pub(super) ingredients: [String; 2],
}

/// Puts the verb and the noun of a seed prompt into a template.
pub(super) fn fill(template: &str, seed: &SeedSpec) -> String {
    template.replace("{verb}", &seed.verb).replace("{noun}", &seed.noun)
}
