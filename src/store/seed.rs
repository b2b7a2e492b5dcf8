//! Seeds and named random streams. A stage has no other randomness: everything it draws comes from its [`Seed`], through a stream
//! named after its purpose. So an added draw cannot shift the draws of another place.

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

    /// The seed of a part: a loop position, a row, a role.
    pub fn child(&self, label: impl Display) -> Seed {
        let hash = blake3::keyed_hash(&self.0, label.to_string().as_bytes());
        Seed(*hash.as_bytes())
    }

    /// The random stream for one named purpose: ChaCha8 with a fixed layout, the same on every machine.
    pub fn stream(&self, purpose: impl Display) -> ChaCha8Rng {
        self.child(purpose).own_stream()
    }

    /// The stream that this seed itself keys: `seed.stream(purpose)` is `seed.child(purpose).own_stream()`.
    pub fn own_stream(&self) -> ChaCha8Rng {
        ChaCha8Rng::from_seed(self.0)
    }

    /// The 256 bits.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Parses a seed from 64 hexadecimal digits.
    pub fn from_hex(hex: &str) -> Option<Seed> {
        super::Digest::from_hex(hex.as_bytes()).map(|digest| Seed(*digest.bytes()))
    }

    /// Formats the seed as 64 lower-case hexadecimal digits.
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
