//! An irreversible change of user.

use super::identity::Identity;
use libc::{c_ulong, gid_t, uid_t};
use nix::errno::Errno;
use nix::unistd::{ResGid, ResUid, getresgid, getresuid};

/// A change of user, and the old ids, which must not be available afterwards.
pub struct Credentials<'a> {
    to: &'a Identity,
    uids: ResUid,
    gids: ResGid,
}

impl<'a> Credentials<'a> {
    /// A change from our own ids.
    ///
    /// # Errors
    /// Those of getresuid(2).
    pub fn new(identity: &'a Identity) -> nix::Result<Credentials<'a>> {
        Ok(Credentials { to: identity, uids: getresuid()?, gids: getresgid()? })
    }

    /// Applies it; for a child between fork and exec: allocates nothing.
    ///
    /// # Errors
    /// Those of the system calls, and EPERM where an old id could be taken again.
    pub fn apply(&self) -> nix::Result<()> {
        let (uid, gid, groups) = (self.to.uid, self.to.gid, &self.to.groups);
        let check = |result| Errno::result(result).map(drop);
        let not_dropped = Errno::EPERM;
        // SAFETY: plain system calls; the list of groups is as long as said,
        // and the variables written to live through the calls. In the child
        // there is one thread, so the C library has no others to change.
        unsafe {
            // Otherwise capabilities may survive the change. The call fails where the bit is
            // locked; then the check at the end decides.
            libc::prctl(libc::PR_SET_KEEPCAPS, 0 as c_ulong, 0 as c_ulong, 0 as c_ulong, 0 as c_ulong);
            check(libc::setgroups(groups.len(), groups.as_ptr()))?;
            check(libc::setresgid(gid, gid, gid))?;
            check(libc::setresuid(uid, uid, uid))?;

            let mut uids: [uid_t; 3] = [uid_t::MAX; 3];
            let mut gids: [gid_t; 3] = [gid_t::MAX; 3];
            let [real, effective, saved] = &mut uids;
            check(libc::getresuid(real, effective, saved))?;
            let [real, effective, saved] = &mut gids;
            check(libc::getresgid(real, effective, saved))?;
            if uids != [uid; 3] || gids != [gid; 3] {
                return Err(not_dropped);
            }
            if uid == 0 {
                return Ok(());
            }

            let ResUid { real, effective, saved } = self.uids;
            for old in [real, effective, saved].map(|old| old.as_raw()) {
                if old != uid && libc::setresuid(uid_t::MAX, old, uid_t::MAX) != -1 {
                    return Err(not_dropped);
                }
            }
            let ResGid { real, effective, saved } = self.gids;
            for old in [real, effective, saved].map(|old| old.as_raw()) {
                if old != gid && libc::setresgid(gid_t::MAX, old, gid_t::MAX) != -1 {
                    return Err(not_dropped);
                }
            }
        }
        if has_capabilities() { Err(not_dropped) } else { Ok(()) }
    }
}

/// Whether the calling process has a capability in effect or permitted, as it
/// may under SECBIT_NO_SETUID_FIXUP. Unknown counts as yes.
fn has_capabilities() -> bool {
    /// `_LINUX_CAPABILITY_VERSION_3`: two sets of three words.
    const VERSION: u32 = 0x2008_0522;
    let header: [u32; 2] = [VERSION, 0];
    let mut sets = [[0_u32; 3]; 2];
    // SAFETY: header and sets have the layout that capget(2) gives for this
    // version, and live through the call.
    let result = unsafe { libc::syscall(libc::SYS_capget, header.as_ptr(), sets.as_mut_ptr()) };
    result != 0 || sets.iter().any(|[effective, permitted, _]| effective | permitted != 0)
}
