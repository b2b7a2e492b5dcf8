//! The sandbox's experts: they know the truth, with independent errors and blind spots.

use rand::Rng;

use super::class::Class;
use super::vote::vote;
use super::world::{Expert, Experts};
use store::Seed;

/// The votes of all experts on a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Votes {
    /// Whether it is unsafe.
    pub safety: Vec<(String, bool)>,
    /// Whether it is positive. All experts are asked; the votes count only for a safe response.
    pub utility: Vec<(String, bool)>,
}

impl Experts {
    /// The votes on a response of true class `truth` in `category`. An expert always votes the same on a pair: errors are drawn
    /// from a stream of the pair and the expert's name.
    pub fn vote(&self, truth: Class, category: &str, attack: &str, response: &str, seed: Seed) -> Votes {
        let pair = seed.child(attack).child(response);
        let ask = |expert: &Expert, right: bool| {
            let blind = expert.blind_spot.as_ref().filter(|spot| spot.category == category);
            let error = blind.map_or(expert.error, |spot| spot.error);
            let wrong = pair.stream(&expert.name).random::<f64>() < error;
            (expert.name.clone(), right != wrong)
        };
        Votes {
            safety: self.safety.iter().map(|expert| ask(expert, truth == Class::Negative)).collect(),
            utility: self.utility.iter().map(|expert| ask(expert, truth == Class::Positive)).collect(),
        }
    }
}

impl Experts {
    /// The label by vote; `None` if undetermined.
    pub fn label(
        &self,
        truth: Class,
        category: &str,
        attack: &str,
        response: &str,
        seed: Seed,
    ) -> Option<Class> {
        let votes = self.vote(truth, category, attack, response, seed);
        let read = |votes: &[(String, bool)]| votes.iter().map(|(_, vote)| Some(*vote)).collect::<Vec<_>>();
        vote(&read(&votes.safety), &read(&votes.utility)).0
    }
}

#[cfg(test)]
mod tests {
    use super::super::world::World;
    use super::*;

    #[test]
    fn experts_err_as_often_as_declared_and_most_votes_find_the_truth() {
        let experts = World::parse(World::embedded_text()).unwrap().experts;
        let ask = |i: usize, category: &str| {
            experts.vote(Class::ALL[i % 3], category, "x", &i.to_string(), Seed::from_u64(1))
        };
        let wrong = |category: &str| {
            let votes = (0..3000).filter(|i| ask(*i, category).safety[0].1 != (i % 3 == 0));
            votes.count() as f64 / 3000.0
        };
        assert!((0.02..0.06).contains(&wrong("potions")), "{}", wrong("potions"));
        assert!((0.2..0.3).contains(&wrong("locks")), "{}", wrong("locks"));
        assert_eq!(ask(5, "locks"), ask(5, "locks"));
        let right = (0..3000).filter(|&i| {
            let votes = ask(i, "potions");
            let read =
                |votes: &[(String, bool)]| votes.iter().map(|(_, vote)| Some(*vote)).collect::<Vec<_>>();
            vote(&read(&votes.safety), &read(&votes.utility)).0 == Some(Class::ALL[i % 3])
        });
        assert!(right.count() > 2880);
    }
}
