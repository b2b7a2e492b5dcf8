//! Keeps loaded artifacts in memory between nodes, so that a model is read once however many nodes use it.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use store::Digest;

type Key = (Digest, TypeId);

/// Beyond the budget there is room for so many values of the largest size: the roles and a reference.
const LARGEST: usize = 4;

/// A pool of loaded values by content digest with a byte budget; the least recently used goes first.
pub struct Memory {
    budget: usize,
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    values: HashMap<Key, Entry>,
    bytes: usize,
    /// The bytes of the largest value so far.
    largest: usize,
    clock: u64,
}

struct Entry {
    value: Arc<dyn Any + Send + Sync>,
    bytes: usize,
    used: u64,
}

impl Memory {
    /// A pool that holds at most `budget` bytes plus four times the largest value.
    pub fn new(budget: usize) -> Memory {
        Memory { budget, entries: Mutex::default() }
    }

    /// The value of this type that was kept for a digest, if it is still there.
    pub fn get<T: Any + Send + Sync>(&self, digest: Digest) -> Option<Arc<T>> {
        let mut entries = self.lock();
        entries.clock += 1;
        let now = entries.clock;
        let entry = entries.values.get_mut(&(digest, TypeId::of::<T>()))?;
        entry.used = now;
        entry.value.clone().downcast().ok()
    }

    /// Keeps a value of about `bytes` bytes. Drops others to stay within the budget.
    pub fn put<T: Any + Send + Sync>(&self, digest: Digest, value: Arc<T>, bytes: usize) {
        let mut entries = self.lock();
        entries.clock += 1;
        let entry = Entry { value, bytes, used: entries.clock };
        entries.bytes += bytes;
        if let Some(replaced) = entries.values.insert((digest, TypeId::of::<T>()), entry) {
            entries.bytes -= replaced.bytes;
        }
        entries.largest = entries.largest.max(bytes);
        let limit = self.budget + LARGEST * entries.largest;
        while entries.bytes > limit {
            let Some(oldest) = entries.values.iter().min_by_key(|(_, entry)| entry.used).map(|(key, _)| *key)
            else {
                return;
            };
            if let Some(dropped) = entries.values.remove(&oldest) {
                entries.bytes -= dropped.bytes;
            }
        }
    }

    /// Forgets the values under these digests.
    pub fn forget(&self, digests: &[Digest]) {
        let mut entries = self.lock();
        let of_these = |(digest, _): &Key| digests.contains(digest);
        let doomed: Vec<Key> = entries.values.keys().filter(|key| of_these(key)).copied().collect();
        for key in doomed {
            if let Some(dropped) = entries.values.remove(&key) {
                entries.bytes -= dropped.bytes;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_goes_first() {
        let memory = Memory::new(2);
        let [a, b, c, d, e] = [b"a", b"b", b"c", b"d", b"e"].map(|name| Digest::of_bytes(name));
        for (number, digest) in [a, b, c, d].into_iter().enumerate() {
            memory.put(digest, Arc::new(number as u8 + 1), 4);
        }
        assert_eq!(memory.get::<u8>(a).as_deref(), Some(&1));
        memory.put(e, Arc::new(5u8), 4);
        assert_eq!(memory.get::<u8>(b), None);
        assert_eq!(memory.get::<u8>(a).as_deref(), Some(&1));
        assert_eq!(memory.get::<u16>(a), None, "another type is another entry");
    }
}
