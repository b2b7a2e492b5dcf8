//! What the content of a file must be.

use std::io::Read;

use anyhow::ensure;
use sha1::Sha1;
use sha2::{Digest, Sha256};

/// The size and the digest of a content, as a hub tells them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Of a large file.
    Sha256 {
        /// In hexadecimal digits.
        digest: String,
        /// The size.
        bytes: u64,
    },
    /// Of a file in the repository itself: the SHA-1 of git's object for it.
    Git {
        /// In hexadecimal digits.
        digest: String,
        /// The size.
        bytes: u64,
    },
}

impl Content {
    /// Its size.
    pub fn bytes(&self) -> u64 {
        match self {
            Content::Sha256 { bytes, .. } | Content::Git { bytes, .. } => *bytes,
        }
    }

    pub(crate) fn hasher(&self) -> Hasher {
        match self {
            Content::Sha256 { .. } => Hasher::Sha256(Sha256::new()),
            Content::Git { bytes, .. } => {
                let mut hasher = Sha1::new();
                hasher.update(format!("blob {bytes}\0"));
                Hasher::Git(hasher)
            }
        }
    }

    /// Ensures that a content of so many bytes that was hashed is this one.
    pub(crate) fn ensure(&self, bytes: u64, hasher: Hasher) -> anyhow::Result<()> {
        let (what, digest) = match self {
            Content::Sha256 { digest, .. } => ("SHA-256", digest),
            Content::Git { digest, .. } => ("git digest", digest),
        };
        ensure!(bytes == self.bytes(), "must have {} bytes, found {bytes}", self.bytes());
        let found = hasher.digest();
        ensure!(found.eq_ignore_ascii_case(digest), "must have the {what} {digest}, found {found}");
        Ok(())
    }
}

/// A content that is being hashed.
pub(crate) enum Hasher {
    Sha256(Sha256),
    Git(Sha1),
}

impl Hasher {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Hasher::Sha256(hasher) => hasher.update(bytes),
            Hasher::Git(hasher) => hasher.update(bytes),
        }
    }

    /// Hashes all of a reader; returns how many bytes it had.
    pub(crate) fn read(&mut self, mut reader: impl Read) -> std::io::Result<u64> {
        let mut buffer = vec![0; 1 << 20];
        let mut total = 0;
        loop {
            match reader.read(&mut buffer)? {
                0 => return Ok(total),
                count => {
                    self.update(&buffer[..count]);
                    total += count as u64;
                }
            }
        }
    }

    fn digest(self) -> String {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        match self {
            Hasher::Sha256(hasher) => hex(&hasher.finalize()),
            Hasher::Git(hasher) => hex(&hasher.finalize()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_those_of_git_and_sha256sum() {
        let git = Content::Git { digest: "ce013625030ba8dba906f756967f9e9ca394464a".into(), bytes: 6 };
        let sha = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        let large = Content::Sha256 { digest: sha.into(), bytes: 6 };
        for content in [git, large] {
            let mut hasher = content.hasher();
            assert_eq!(hasher.read(&b"hello\n"[..]).unwrap(), 6);
            content.ensure(6, hasher).unwrap();
            let mut hasher = content.hasher();
            hasher.update(b"hellO\n");
            assert!(content.ensure(6, hasher).unwrap_err().to_string().starts_with("must have the "));
            assert!(
                content.ensure(5, content.hasher()).unwrap_err().to_string().contains("6 bytes, found 5")
            );
        }
    }
}
