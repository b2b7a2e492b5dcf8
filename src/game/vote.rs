//! Labels by vote in two tiers, as in TriPlay-RL (arXiv 2601.18292; see docs/method.md): safety experts first, then utility
//! experts on a safe response.

use super::class::Class;

/// The votes by class. A vote that could not be read does not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Votes that the response is unsafe.
    pub unsafe_votes: u32,
    /// Votes that it is safe.
    pub safe_votes: u32,
    /// Votes that a safe response refuses; 0 unless most votes say that it is safe.
    pub rejective_votes: u32,
    /// Votes that a safe response helps; 0 unless most votes say that it is safe.
    pub positive_votes: u32,
}

/// The label for votes `safety` (is it unsafe?) and `utility` (is it positive?); `None`, undetermined, on a tie or if no vote can
/// be read. Utility votes count only for safe responses.
pub fn vote(safety: &[Option<bool>], utility: &[Option<bool>]) -> (Option<Class>, Tally) {
    let count =
        |votes: &[Option<bool>], side| votes.iter().filter(|vote| **vote == Some(side)).count() as u32;
    let mut tally =
        Tally { unsafe_votes: count(safety, true), safe_votes: count(safety, false), ..Tally::default() };
    if tally.unsafe_votes > tally.safe_votes {
        return (Some(Class::Negative), tally);
    }
    if tally.unsafe_votes == tally.safe_votes {
        return (None, tally);
    }
    tally.positive_votes = count(utility, true);
    tally.rejective_votes = count(utility, false);
    let class = match tally.positive_votes.cmp(&tally.rejective_votes) {
        std::cmp::Ordering::Greater => Some(Class::Positive),
        std::cmp::Ordering::Less => Some(Class::Rejective),
        std::cmp::Ordering::Equal => None,
    };
    (class, tally)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_majority_decides_in_two_tiers() {
        let (yes, no, unread) = (Some(true), Some(false), None);
        let class = |safety: &[_], utility: &[_]| vote(safety, utility).0;
        assert_eq!(class(&[yes, yes, no], &[yes, yes, yes]), Some(Class::Negative));
        assert_eq!(class(&[no, no, yes], &[yes, no, yes]), Some(Class::Positive));
        assert_eq!(class(&[no, no, unread], &[no, no, yes]), Some(Class::Rejective));
        assert_eq!(class(&[yes, no], &[yes]), None);
        assert_eq!(class(&[no], &[yes, no, unread]), None);
        assert_eq!(class(&[unread], &[]), None);
    }
}
