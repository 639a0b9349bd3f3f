//! Numbers of the records of one process.
//!
//! A number is assigned when a record is made: before it takes a place, and before it is handed to
//! the writer thread. A record that is dropped afterwards therefore leaves a gap, and a line that is
//! written again, late or after a failed `fsync`, keeps its number. Numbers are dense: each belongs
//! to exactly one record. They follow the time of the records only roughly, because several threads
//! make records.

use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::rand;

use super::fingerprint::push_hex;

/// Number of the first record of a process.
pub(super) const FIRST: u64 = 1;
/// Number of random bytes in the identity of a process. Two of a million processes have the same
/// with a probability of 1 in 37 million.
const BYTES: usize = 8;
/// Number of characters of the identity of a process.
pub(super) const PROCESS_LENGTH: usize = 2 * BYTES;

/// The identity of a process, and the number of its next record.
#[derive(Debug)]
pub(super) struct Numbering {
    process: String,
    next: AtomicU64,
}

/// The number of one record.
#[derive(Clone, Copy, Debug)]
pub(super) struct Number<'a> {
    /// The identity of the process: 16 hexadecimal digits, random for each start.
    pub(super) process: &'a str,
    /// From [`FIRST`], without gaps.
    pub(super) sequence: u64,
}

impl Numbering {
    /// Creates the numbers of a new process. `None` if the system provides no randomness.
    pub(super) fn with_random_identity() -> Option<Self> {
        let mut bytes = [0; BYTES];
        rand::fill(&mut bytes).ok()?;
        let mut process = String::with_capacity(PROCESS_LENGTH);
        push_hex(&mut process, &bytes);
        Some(Self { process, next: AtomicU64::new(FIRST) })
    }

    /// Returns the next number. Must be called exactly once for each record.
    ///
    /// `Relaxed` is enough: a number is unique regardless of the order in which threads see other
    /// changes.
    pub(super) fn next(&self) -> Number<'_> {
        Number { process: &self.process, sequence: self.next.fetch_add(1, Ordering::Relaxed) }
    }
}

#[cfg(test)]
impl Numbering {
    /// Creates numbers for a test.
    pub(super) fn for_test() -> Self {
        Self { process: "00000000000000ff".to_owned(), next: AtomicU64::new(FIRST) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn numbers_of_several_threads_are_unique_and_dense() {
        const EACH: u64 = 1000;
        let numbering = Numbering::with_random_identity().expect("randomness");
        let taken = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..EACH).map(|_| numbering.next().sequence).collect::<Vec<u64>>()))
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect::<BTreeSet<_>>()
        });
        assert_eq!(taken, (FIRST..=4 * EACH).collect());
    }

    #[test]
    fn each_process_has_its_own_identity() {
        let [one, other] = [(); 2].map(|()| Numbering::with_random_identity().expect("randomness"));
        assert_eq!((one.process.len(), other.process.len()), (PROCESS_LENGTH, PROCESS_LENGTH));
        assert_ne!(one.process, other.process);
    }
}
