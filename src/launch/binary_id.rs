//! SHA-1 of a program, by which overseer's programs recognise their own release.
//!
//! A program may have hundreds of megabytes, for which the loop must not wait. So a thread reads
//! it before the start, and the start finds the hash here. A file that has changed since is another
//! one, and is then read by the start itself.

use super::Refused;
use crate::core::event::Refusal;
use crate::error::reason;
use sha1_smol::Sha1;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What is read at a time.
const CHUNK: usize = 128 * 1024;

/// The hash that was computed last, shared by the threads.
#[derive(Debug, Clone, Default)]
pub struct BinaryIds(Arc<Mutex<Option<(Identity, String)>>>);

/// What tells a file from others, and from itself once it is written to: device, inode, size, and
/// the time of the last change.
type Identity = (u64, u64, u64, i64, i64);

fn identity(of: &Metadata) -> Identity {
    (of.dev(), of.ino(), of.size(), of.ctime(), of.ctime_nsec())
}

impl BinaryIds {
    /// Whether the hash of this program is known, so that [`of`](Self::of) does not read it.
    pub fn is_known(&self, program: &Path) -> bool {
        let identity = std::fs::metadata(program).map(|metadata| identity(&metadata)).ok();
        identity.is_some() && self.last().as_ref().map(|(known, _)| *known) == identity
    }

    /// The hash of this program.
    ///
    /// # Errors
    /// [`Refused`] when it cannot be read.
    pub fn of(&self, program: &Path) -> Result<String, Refused> {
        self.compute(program).map_err(|error| Refused {
            refusal: Refusal::Other,
            message: format!("cannot read {} for OVERSEER_BIN_ID: {}", program.display(), reason(&error)),
        })
    }

    fn compute(&self, program: &Path) -> io::Result<String> {
        let mut file = File::open(program)?;
        let identity = identity(&file.metadata()?);
        if let Some((_, hash)) = self.last().as_ref().filter(|(known, _)| *known == identity) {
            return Ok(hash.clone());
        }
        let mut sha1 = Sha1::new();
        let mut chunk = vec![0; CHUNK];
        loop {
            match file.read(&mut chunk)? {
                0 => break,
                length => sha1.update(chunk.get(..length).unwrap_or_default()),
            }
        }
        let hash = sha1.digest().to_string();
        *self.last() = Some((identity, hash.clone()));
        Ok(hash)
    }

    fn last(&self) -> MutexGuard<'_, Option<(Identity, String)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_changes_has_another_hash() {
        let directory = tempfile::tempdir().unwrap();
        let (program, ids) = (directory.path().join("program"), BinaryIds::default());
        assert!(!ids.is_known(&program) && ids.of(&program).is_err());
        std::fs::write(&program, "").unwrap();
        assert!(!ids.is_known(&program));
        assert_eq!(ids.of(&program).unwrap(), "da39a3ee5e6b4b0d3255bfef95601890afd80709");
        assert!(ids.is_known(&program));
        std::fs::write(&program, "abc").unwrap();
        assert!(!ids.is_known(&program));
        assert_eq!(ids.of(&program).unwrap(), "a9993e364706816aba3e25717850c26c9cd0d89d");
    }
}
