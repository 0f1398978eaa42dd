//! Memory that is resident while held and returned to the kernel afterwards.

use crate::request_error::RequestError;

/// Resident pages of a request. Mapped directly: the allocator would keep freed memory, so that the function's memory would never shrink.
pub struct Pages {
    address: *mut libc::c_void,
    length: usize,
}

impl Pages {
    /// Maps `mebibytes` of memory and writes to every page; `None` for 0.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn touched(mebibytes: u32) -> Result<Option<Self>, RequestError> {
        if mebibytes == 0 {
            return Ok(None);
        }
        let refused = |reason: String| RequestError::NoMemory { mebibytes, reason };
        let length = usize::try_from(u64::from(mebibytes) << 20).map_err(|error| refused(error.to_string()))?;
        // Populating the mapping avoids a page fault per page.
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE;
        // SAFETY: a fresh private mapping at an address of the kernel's choice touches no memory in use.
        let address = unsafe { libc::mmap(std::ptr::null_mut(), length, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
        if address == libc::MAP_FAILED {
            return Err(refused(std::io::Error::last_os_error().to_string()));
        }
        let pages = Self { address, length };
        pages.touch();
        Ok(Some(pages))
    }

    /// Writes one byte to every page, so that all are resident.
    fn touch(&self) {
        const SMALLEST_PAGE: usize = 4096;
        for offset in (0..self.length).step_by(SMALLEST_PAGE) {
            // SAFETY: `offset` is below the length of the mapping, which is writable and owned by `self` alone.
            unsafe { self.address.cast::<u8>().add(offset).write_volatile(1) };
        }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: this is the mapping that `touched` made, and nothing refers to it any more.
        unsafe { libc::munmap(self.address, self.length) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_is_resident_while_held() {
        let pages = Pages::touched(8).expect("8 MiB").expect("some pages");
        let count = pages.length.div_ceil(4096);
        let mut resident = vec![0_u8; count];
        // SAFETY: the mapping is valid and `resident` has a byte for each of its pages.
        assert_eq!(unsafe { libc::mincore(pages.address, pages.length, resident.as_mut_ptr()) }, 0);
        assert!(resident.iter().all(|page| page & 1 == 1));
    }

    #[test]
    fn no_memory_asked_for_is_none_used() {
        assert!(Pages::touched(0).expect("nothing").is_none());
    }
}
