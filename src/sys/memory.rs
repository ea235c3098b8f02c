//! The memory of program text that only the start needs.
//!
//! This is kept although the kernel could reclaim such pages by itself: it does so only under
//! memory pressure, and until then they count as our resident memory. The dynamic loader and the
//! shared libraries are part of that text. A static build has neither, and may make this file
//! unnecessary.

use std::fs;

/// Releases the pages of program text that only the start needed: the parsing of arguments,
/// look-ups, the dynamic loader (madvise(2), MADV_DONTNEED). A page that is needed again comes
/// from the page cache, without reading a disk. Only executable mappings of files are
/// released, since nothing writes to those. Without /proc it does nothing.
pub fn release_text() {
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    for (start, end) in maps.lines().filter_map(text_mapping) {
        // SAFETY: the range is a private, read-only mapping of a file, as its
        // line says; dropping its pages changes nothing that can be read there.
        unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED) };
    }
}

/// proc_pid_maps(5): `start-end r-xp offset device inode path`.
fn text_mapping(line: &str) -> Option<(usize, usize)> {
    let mut words = line.split_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let (permissions, inode) = (words.next()?, words.nth(2)?);
    let range = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    (permissions == "r-xp" && inode != "0").then_some(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_text_of_files_is_released() {
        let text = "7f00a000-7f00b000 r-xp 00001000 fe:00 131 /usr/lib/libc.so.6";
        assert_eq!(text_mapping(text), Some((0x7f00_a000, 0x7f00_b000)));
        for other in [
            "7f00a000-7f00b000 r--p 00001000 fe:00 131 /usr/lib/libc.so.6",
            "7f00a000-7f00b000 rwxp 00001000 fe:00 131 /usr/lib/libc.so.6",
            "7ffd1000-7ffd3000 r-xp 00000000 00:00 0 [vdso]",
            "",
        ] {
            assert_eq!(text_mapping(other), None, "{other}");
        }
    }

    #[test]
    fn the_process_works_after_the_release() {
        release_text();
        assert!(fs::metadata("/").is_ok());
    }
}
