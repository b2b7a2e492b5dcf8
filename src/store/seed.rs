//! Seeds and named random streams. A stage never sees ambient randomness: whatever it draws comes from a
//! [`Seed`] handed to it, through a stream that is named after its purpose, so that adding a draw in one
//! place cannot shift the draws of another.

use std::fmt::{self, Display};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

const CONTEXT: &str = "triplay 2026 seed derivation v1";

/// 256 bits from which streams and child seeds are derived with BLAKE3.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Seed([u8; 32]);

impl Seed {
    /// The root seed of a pipeline, from the number its author wrote.
    pub fn from_u64(number: u64) -> Seed {
        Seed(blake3::derive_key(CONTEXT, &number.to_le_bytes()))
    }

    /// The seed of a part of what this seed is for: a loop position, a row, a role.
    pub fn child(&self, label: impl Display) -> Seed {
        let hash = blake3::keyed_hash(&self.0, label.to_string().as_bytes());
        Seed(*hash.as_bytes())
    }

    /// The random stream for one named purpose. ChaCha8 with a fixed layout: the same on every machine.
    pub fn stream(&self, purpose: impl Display) -> ChaCha8Rng {
        ChaCha8Rng::from_seed(self.child(purpose).0)
    }

    /// The 256 bits.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The seed that 64 hexadecimal digits stand for.
    pub fn from_hex(hex: &str) -> Option<Seed> {
        super::Digest::from_hex(hex.as_bytes()).map(|digest| Seed(*digest.bytes()))
    }

    /// 64 lower-case hexadecimal digits.
    pub fn to_hex(self) -> String {
        blake3::Hash::from_bytes(self.0).to_hex().to_string()
    }
}

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Seed({})", &self.to_hex()[..16])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng;

    #[test]
    fn streams_are_pinned_and_differ_by_purpose() {
        let seed = Seed::from_u64(7);
        let draw = |purpose: &str| seed.stream(purpose).random::<u64>();
        assert_eq!(draw("prompts"), draw("prompts"));
        assert_ne!(draw("prompts"), draw("sampling"));
        assert_ne!(seed.child(1), seed.child(2));
        assert_ne!(Seed::from_u64(7), Seed::from_u64(8));
    }
}
