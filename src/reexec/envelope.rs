//! The file in which the state is passed on: a header and the state, in a memory file
//! (memfd_create(2)) that is sealed against changes.
//!
//! The header is checked before the state is interpreted: a magic number, the version of
//! the format, the length and the SHA-1 of what follows. The version changes when an older
//! reader could not read the format; added fields do not change it.

use crate::error::reason;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use sha1_smol::Sha1;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};

/// The version of the format that we write; we read this and the older ones.
pub const FORMAT: u32 = 1;

const MAGIC: [u8; 8] = *b"grun-re\n";
/// A longer state is an error: that of 1000 workers has about a mebibyte.
const LONGEST: u64 = 64 << 20;
const HEADER: usize = MAGIC.len() + 4 + 8 + 20;

/// The SHA-1 of a state.
pub type Digest = [u8; 20];

/// The header, and `body` after it.
pub fn wrap(body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + body.len());
    bytes.extend(MAGIC);
    bytes.extend(FORMAT.to_le_bytes());
    bytes.extend((body.len() as u64).to_le_bytes());
    bytes.extend(Sha1::from(body).digest().bytes());
    bytes.extend(body);
    bytes
}

/// The body of what [`wrap`] has made, and its digest.
///
/// # Errors
/// What is wrong with it.
pub fn unwrap(bytes: &[u8]) -> Result<(&[u8], Digest), String> {
    let (magic, rest) = bytes.split_at_checked(MAGIC.len()).ok_or("it is cut short")?;
    let (format, rest) = rest.split_first_chunk().ok_or("it is cut short")?;
    let (length, rest) = rest.split_first_chunk().ok_or("it is cut short")?;
    let (digest, body) = rest.split_first_chunk::<20>().ok_or("it is cut short")?;
    if magic != MAGIC {
        return Err("it is no state of graceful-run".into());
    }
    let format = u32::from_le_bytes(*format);
    if format == 0 || format > FORMAT {
        return Err(format!("its format {format} is not known, only those up to {FORMAT}"));
    }
    if body.len() as u64 != u64::from_le_bytes(*length) {
        return Err("it is not as long as it says".into());
    }
    match Sha1::from(body).digest().bytes() == *digest {
        true => Ok((body, *digest)),
        false => Err("its checksum is wrong".into()),
    }
}

/// Writes `bytes` to a memory file and seals it; it is close-on-exec.
///
/// # Errors
/// In words: the kernel has no memory files (ENOSYS), or no memory.
pub fn seal(bytes: &[u8]) -> Result<OwnedFd, String> {
    let failed = |errno: Errno| format!("cannot make a memory file: {}", reason(&errno.into()));
    if bytes.len() as u64 > LONGEST {
        return Err(format!("the state is too long: {} bytes", bytes.len()));
    }
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let create = |flags| memfd_create(c"graceful-run state", flags);
    // Where vm.memfd_noexec demands this flag, it is needed; kernels before 6.3 do not know it.
    let file = match create(flags | MFdFlags::from_bits_retain(libc::MFD_NOEXEC_SEAL)) {
        Err(Errno::EINVAL) => create(flags),
        made => made,
    };
    let file = file.map_err(failed)?;
    let mut file = File::from(file);
    file.write_all(bytes).map_err(|error| format!("cannot write the state: {}", reason(&error)))?;
    let seals =
        SealFlag::F_SEAL_SEAL | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).map_err(failed)?;
    Ok(file.into())
}

/// Reads the whole file from its beginning.
///
/// # Errors
/// In words: it is too long, not sealed, or cannot be read.
pub fn open(file: impl AsFd) -> Result<Vec<u8>, String> {
    let failed = |error: std::io::Error| format!("cannot read the state: {}", reason(&error));
    let seals = fcntl(&file, FcntlArg::F_GET_SEALS).map_err(|_| "it is no memory file")?;
    if !SealFlag::from_bits_truncate(seals).contains(SealFlag::F_SEAL_WRITE) {
        return Err("somebody could still write to it".into());
    }
    let mut file = File::from(file.as_fd().try_clone_to_owned().map_err(failed)?);
    file.seek(SeekFrom::Start(0)).map_err(failed)?;
    let mut bytes = Vec::new();
    let most = LONGEST + HEADER as u64;
    file.take(most + 1).read_to_end(&mut bytes).map_err(failed)?;
    match bytes.len() as u64 > most {
        true => Err("the state is too long".into()),
        false => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_sealed_file_is_read_back_and_cannot_be_changed() {
        let file = seal(&wrap(b"{}")).unwrap();
        let bytes = open(&file).unwrap();
        assert_eq!(unwrap(&bytes).unwrap().0, b"{}");
        let mut writer = File::from(file.try_clone().unwrap());
        assert!(writer.write_all(b"x").is_err() && writer.set_len(0).is_err());
        assert_eq!(open(&file), Ok(bytes), "it is read from its beginning each time");
    }

    #[test]
    fn what_is_not_sealed_is_refused() {
        let (file, bytes) = (tempfile::tempfile().unwrap(), wrap(b"{}"));
        (&file).write_all(&bytes).unwrap();
        assert!(open(&file).is_err());
        let open_file = memfd_create(c"test", MFdFlags::MFD_ALLOW_SEALING).unwrap();
        assert_eq!(open(&open_file).unwrap_err(), "somebody could still write to it");
    }

    #[test]
    fn a_newer_format_is_refused() {
        let mut bytes = wrap(b"{}");
        bytes[MAGIC.len()] = 2;
        assert!(unwrap(&bytes).unwrap_err().starts_with("its format 2 is not known"));
    }

    proptest! {
        #[test]
        fn a_flipped_bit_or_a_cut_is_noticed(body in proptest::collection::vec(any::<u8>(), 0..200), at in any::<prop::sample::Index>(), bit in 0..8_u8) {
            let bytes = wrap(&body);
            prop_assert_eq!(unwrap(&bytes).unwrap().0, body.as_slice());
            let at = at.index(bytes.len());
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            prop_assert!(unwrap(&flipped).is_err());
            prop_assert!(unwrap(&bytes[..at]).is_err());
        }
    }
}
