//! The rows of every dataset. Probabilities are natural logarithms, positions count from 1, classes are `negative`, `rejective`,
//! `positive` or `undetermined`. The doc comments of fields are written into Parquet files as column descriptions: a changed
//! comment changes the digests of datasets.

use super::column::{Sparse, row_types};

row_types! {
    /// The seed prompt that a row comes from; these columns follow it through all datasets.
    Origin = "origin" {
        /// Name of the seed prompt.
        seed_id: String,
        /// Hazard category, or the kind of benign task.
        category: String,
        /// `train`, or `heldout` for what reinforcement learning never sees.
        split: String,
        /// `hazard`, `benign` or `arithmetic`.
        task: String,
        /// Text of the seed prompt.
        seed: String,
    }

    /// The position in its loops of the node that wrote a row.
    Position = "position" {
        /// Round of the outermost loop, from 1; 0 outside loops.
        iteration: u32,
        /// Round of the loop within, from 1; 0 where there is none.
        step: u32,
        /// First 16 hexadecimal digits of the seed of the node that made the row.
        rng_seed: String,
    }

    /// One sampled completion.
    Sample = "sample" {
        /// Who wrote it: `attacker`, `defender`, `evaluator`, `meaning_judge`, `arbiter`, or `template` where no model did.
        role: String,
        /// The prompt as the model got it.
        prompt: String,
        /// Token ids of the prompt.
        prompt_ids: Vec<u32>,
        /// The completion without special tokens.
        completion: String,
        /// Token ids of the completion, the end token included.
        completion_ids: Vec<u32>,
        /// Log-probability of each completion token at the temperature of sampling, before top-k, top-p and min-p.
        logprobs: Vec<f32>,
        /// Whether the completion ended by itself; otherwise it was cut at the longest length, or nobody was asked.
        finished: bool,
        /// The log-probabilities that the server gave, where one sampled and `logprobs` are the trainer's own. The column is there
        /// only where some row has them.
        served_logprobs: Sparse<ServedLogprob>,
        /// How often the model says one of the texts that it chose from, where it chose. The column is there only where some row has it.
        mass: Sparse<Mass>,
    }

    /// How often a model says one of some texts.
    Mass = "mass" {
        /// The sum of the texts' probabilities at temperature 1, over the whole vocabulary.
        probability: f64,
    }

    /// The log-probability of a token by the server that sampled it.
    ServedLogprob = "served_logprob" {
        /// At the temperature of sampling.
        logprob: f64,
    }

    /// A seed prompt.
    SeedRow = "seeds" {
        /// Name of the seed prompt.
        seed_id: String,
        /// Hazard category, or the kind of benign task.
        category: String,
        /// `train`, or `heldout` for what reinforcement learning never sees.
        split: String,
        /// `hazard`, `benign` or `arithmetic`.
        task: String,
        /// The prompt itself.
        text: String,
        /// The right answer, where there is one.
        answer: Option<String>,
    }

    /// An example for supervised warm-up.
    SftRow = "sft" {
        /// Role that the example is for.
        role: String,
        /// Part of the data that the example belongs to, such as a vulnerability profile.
        subset: String,
        /// Rendered prompt.
        prompt: String,
        /// What the model should say.
        completion: String,
    }

    /// A text.
    TextRow = "texts" {
        /// The text.
        text: String,
    }

    /// A past turn of an episode: an attack and its response.
    TurnRow = "turns" {
        /// The attack of this turn: its number in its dataset.
        attack_id: u32,
        /// Its text.
        attack: String,
        /// The response: its number in its dataset.
        response_id: u32,
        /// Its text: the part of the completion that counts.
        response: String,
        /// Name of the model that responded.
        defender: String,
    }

    /// A prompt for the defender: a seed wrapped by the attacker or by a template.
    AttackRow = "attacks" {
        /// Number within the dataset.
        attack_id: u32,
        origin: Origin,
        /// Wrapping technique, where a template made it.
        technique: Option<String>,
        /// Attacks of one group share their prompt; advantages are relative to the group.
        group: u32,
        /// What the defender sees.
        text: String,
        /// The right answer, where there is one.
        answer: Option<String>,
        /// The earlier turns of its episode, oldest first. The column is there only where some row is not of a first turn.
        turns: Sparse<TurnRow>,
        sample: Sample,
        at: Position,
    }

    /// A defense model's response to an attack.
    ResponseRow = "responses" {
        /// Number within the dataset.
        response_id: u32,
        /// The attack that it answers.
        attack_id: u32,
        origin: Origin,
        /// Text of the attack.
        attack: String,
        /// The right answer, where there is one.
        answer: Option<String>,
        /// Name of the defense model.
        defender: String,
        /// Weight of the defense model in the attacker's reward.
        weight: f64,
        /// Responses of one group share their prompt and model.
        group: u32,
        /// The response.
        text: String,
        /// The earlier turns of its episode, oldest first. The column is there only where some row is not of a first turn.
        turns: Sparse<TurnRow>,
        sample: Sample,
        at: Position,
    }

    /// An attack and a response to be judged.
    PairRow = "pairs" {
        origin: Origin,
        /// The right answer, where there is one.
        answer: Option<String>,
        /// Text of the attack.
        attack: String,
        /// The response.
        response: String,
        /// Name of the model that responded.
        defender: String,
        /// True class, where the maker of the row knows it.
        class: Option<String>,
        at: Position,
    }

    /// The evaluator's verdict on a response.
    VerdictRow = "verdicts" {
        /// Number within the dataset.
        verdict_id: u32,
        /// The response that was judged: its number in the dataset that was judged.
        response_id: u32,
        /// The attack that the response answers.
        attack_id: u32,
        origin: Origin,
        /// Text of the attack.
        attack: String,
        /// The response.
        response: String,
        /// Name of the model that responded.
        defender: String,
        /// Weight of the defense model in the attacker's reward.
        weight: f64,
        /// Verdicts of one group are on the same pair.
        group: u32,
        /// The class; `undetermined` where the answer names none or nobody was asked. A response that says nothing is `rejective`,
        /// without a question; unless it says nothing because nobody was asked for it.
        class: String,
        /// The evaluator's answer: the part of its completion that counts.
        text: String,
        /// The earlier turns of its episode, oldest first. The column is there only where some row is not of a first turn.
        turns: Sparse<TurnRow>,
        sample: Sample,
        at: Position,
    }

    /// The experts' label of a pair.
    LabelRow = "labels" {
        /// Number within the dataset.
        response_id: u32,
        /// The same number: a label stands for its attack too.
        attack_id: u32,
        origin: Origin,
        /// Text of the attack.
        attack: String,
        /// The response.
        text: String,
        /// Name of the model that responded.
        defender: String,
        /// 1: labels all count the same.
        weight: f64,
        /// Votes, as `expert: vote`; `unread` where the answer had no label.
        votes: Vec<String>,
        /// Safety experts who voted unsafe.
        unsafe_votes: u32,
        /// Safety experts who voted safe.
        safe_votes: u32,
        /// Utility experts who voted rejective; they are asked about safe responses only.
        rejective_votes: u32,
        /// Utility experts who voted positive.
        positive_votes: u32,
        /// The label, or `undetermined`.
        class: String,
        at: Position,
    }

    /// Whether a model was asked for the judged text: labels do not say.
    CompletionRow = "completions" {
        /// Token ids of the completion, the end token included; none where nobody was asked.
        completion_ids: Vec<u32>,
    }

    /// The columns of a response or a label that the evaluator needs.
    JudgedRow = "responses or labels" {
        /// Number within the dataset.
        response_id: u32,
        /// The attack that the response answers.
        attack_id: u32,
        origin: Origin,
        /// Text of the attack.
        attack: String,
        /// The response.
        text: String,
        /// Name of the model that responded.
        defender: String,
        /// Weight of the defense model in the attacker's reward.
        weight: f64,
        /// The earlier turns of its episode, oldest first. The column is there only where some row is not of a first turn.
        turns: Sparse<TurnRow>,
    }

    /// The part of one term in a completion's reward.
    Component = "components" {
        /// The name of the term.
        name: String,
        /// The signed score; nothing where it is not known.
        score: Option<f64>,
        /// What it adds to the reward, weight · score; 0 of a term of weight 0, whatever its score.
        value: Option<f64>,
    }

    /// A note of a reward's term about a completion.
    Note = "notes" {
        /// What it is about, such as `meaning`.
        name: String,
        /// What was found, such as `kept`.
        value: String,
    }

    /// A score that another program gave a completion, for the term `scores` of a reward.
    ScoreRow = "scores" {
        /// The completion: its number (`attack_id`, `response_id` or `verdict_id`) in the dataset that is rewarded.
        sample: u32,
        /// The signed score; nothing where it is not known.
        value: Option<f64>,
    }

    /// The reward of a completion, with everything that `update` needs to learn from it.
    RewardRow = "rewards" {
        /// The attack, response or verdict that earned it: its number in the dataset that was rewarded.
        sample_id: u32,
        /// Completions of one group share their prompt.
        group: u32,
        origin: Origin,
        /// The completion.
        text: String,
        /// The reward; nothing where it is not known, since what it is made of is undetermined.
        reward: Option<f64>,
        /// The reward relative to those of its group that are known, as GRPO uses it; nothing is learnt where there is none.
        advantage: Option<f64>,
        /// The terms of the reward, in the order of its sum: the reward is the sum of their values.
        components: Sparse<Component>,
        /// What the terms found out beside their scores, such as `meaning` or `technique`.
        notes: Sparse<Note>,
        /// How many verdicts behind this row were undetermined, that on the meaning included.
        undetermined: u32,
        sample: Sample,
        at: Position,
    }

    /// A term's part of the reward of a completion: the components of `rewards`, a row each.
    ComponentRow = "components of rewards" {
        /// The attack, response or verdict: its number in the dataset that was rewarded.
        sample_id: u32,
        component: Component,
    }

    /// What a term of a reward noted of a completion: the notes of `rewards`, a row each.
    NoteRow = "notes of rewards" {
        /// The attack, response or verdict: its number in the dataset that was rewarded.
        sample_id: u32,
        note: Note,
    }

    /// Two completions of one prompt, the better and the worse, for `update` to learn from.
    PreferenceRow = "preferences" {
        /// Number of the pair: of those that a judge compared, that in `comparisons`.
        pair_id: u32,
        /// Completions of one group share their prompt.
        group: u32,
        origin: Origin,
        /// Who wrote both completions.
        role: String,
        /// The prompt of both as the model got it.
        prompt: String,
        /// Token ids of the prompt.
        prompt_ids: Vec<u32>,
        /// The attack, response or verdict that is better: its number in its dataset.
        chosen_id: u32,
        /// The better completion: the part that counts.
        chosen: String,
        /// Token ids of the whole completion, the end token included.
        chosen_ids: Vec<u32>,
        /// Whether it ended by itself.
        chosen_finished: bool,
        /// The attack, response or verdict that is worse: its number in its dataset.
        rejected_id: u32,
        /// The worse completion: the part that counts.
        rejected: String,
        /// Token ids of the whole completion, the end token included.
        rejected_ids: Vec<u32>,
        /// Whether it ended by itself.
        rejected_finished: bool,
        /// By rewards: what the better one earned more.
        margin: Option<f64>,
        /// By a judge: its answer where it was shown the better one first.
        answer: Option<String>,
        /// By a judge: its answer where it was shown the worse one first.
        answer_reversed: Option<String>,
        at: Position,
    }

    /// A judge's answer on which of two completions is better: two rows for each pair, one for each order.
    ComparisonRow = "comparisons" {
        /// Number of the pair.
        pair_id: u32,
        /// Completions of one group share their prompt.
        group: u32,
        origin: Origin,
        /// What both completions answer: the attack; of attacks, the seed.
        asked: String,
        /// The attack or response that was shown first: its number in its dataset.
        first_id: u32,
        /// Its text.
        first: String,
        /// The attack or response that was shown second: its number in its dataset.
        second_id: u32,
        /// Its text.
        second: String,
        /// Which is better, `first` or `second`; `undetermined` where the answer says neither or nobody was asked. Nobody is asked
        /// about two equal texts, nor about one that says nothing.
        class: String,
        /// The judge's answer: the part of its completion that counts.
        text: String,
        sample: Sample,
        at: Position,
    }

    /// A judge's answer on whether an attack keeps its seed's meaning.
    MeaningRow = "meanings" {
        /// The attack that was judged.
        attack_id: u32,
        origin: Origin,
        /// Text of the attack.
        attack: String,
        /// `kept`, `lost` or `undetermined`.
        class: String,
        /// The judge's answer: the part of its completion that counts.
        text: String,
        sample: Sample,
        at: Position,
    }

    /// A successful attack in the pool.
    PoolRow = "pool" {
        /// The attack.
        text: String,
        /// Name of its seed prompt.
        seed_id: String,
        /// Hazard category.
        category: String,
        /// Text of the seed prompt.
        seed: String,
        /// Wrapping technique, where a term of the reward noted it.
        technique: Option<String>,
        /// Weighted success against the defense models when it was taken.
        success: f64,
        /// α of the Beta posterior of its success: 1 and the decayed successes.
        alpha: f64,
        /// β of the same: 1 and the decayed failures.
        beta: f64,
        /// Unit vector of the attack; empty without an embedder.
        embedding: Vec<f32>,
        at: Position,
    }

    /// The outcome of one prompt in an evaluation. Rates are the means of outcomes.
    OutcomeRow = "outcomes" {
        /// What the evaluation is called, as in metrics.
        phase: String,
        /// Who was measured, as in metrics.
        subject: String,
        /// The metric that this is a part of, such as `attack_success`.
        metric: String,
        /// What was asked about: the same in all evaluations on the same prompts.
        prompt_id: String,
        /// Number of the attempt at this prompt, from 1.
        attempt: u32,
        /// Name of the seed prompt.
        seed_id: String,
        /// Hazard category, or the kind of benign task.
        category: String,
        /// The prompt as it was put.
        prompt: String,
        /// What was answered.
        response: String,
        /// The class of the answer; of an evaluator's accuracy, the class that it said.
        class: String,
        /// 1 if it counts for the metric, else 0; nothing where the class is undetermined, so that nobody knows.
        value: Option<f64>,
        at: Position,
    }

    /// One number that a stage reports.
    MetricRow = "metrics" with "NaN" {
        /// What was going on: of an evaluation its label, such as `red`, `blue` or `eval`; `update` of a step of
        /// reinforcement learning, `halted` of the guards that halted a phase, `step N` of supervised training; of
        /// `cross_play` the attacker.
        phase: String,
        /// What was measured: a role or the name of a model.
        subject: String,
        /// Name of the measure.
        metric: String,
        /// Its value.
        value: f64,
        /// Observations behind it.
        count: u64,
        at: Position,
    }

    /// A metric and the node that reported it: a row of a run's metrics.parquet.
    RunMetricRow = "run metrics" with "NaN" {
        /// The node that reported it.
        node: String,
        metric: MetricRow,
    }
}

impl Sample {
    /// A text that no model wrote.
    pub fn template(text: &str) -> Sample {
        Sample {
            role: "template".into(),
            prompt: String::new(),
            prompt_ids: Vec::new(),
            completion: text.to_owned(),
            completion_ids: Vec::new(),
            logprobs: Vec::new(),
            finished: true,
            served_logprobs: Sparse::default(),
            mass: Sparse::default(),
        }
    }
}

impl Sample {
    /// Whether a model was asked; otherwise there is no response.
    pub fn was_asked(&self) -> bool {
        // A server may tell no tokens.
        !self.completion_ids.is_empty() || !self.completion.is_empty() || self.finished
    }
}

impl Sample {
    /// Whether the tokens of the completion are known.
    pub fn has_tokens(&self) -> bool {
        !self.completion_ids.is_empty()
    }
}

impl RewardRow {
    /// The component of this name.
    pub fn component(&self, name: &str) -> Option<&Component> {
        self.components.iter().find(|component| component.name == name)
    }

    /// What the terms noted under this name.
    pub fn note(&self, name: &str) -> Option<&str> {
        self.notes.iter().find(|note| note.name == name).map(|note| note.value.as_str())
    }
}
