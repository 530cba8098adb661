//! Memory that will be needed soon.
#![allow(unsafe_code)] // the processor's hint is an intrinsic; it reads nothing and cannot fault

/// Begins to bring it into the processor's cache, waiting for nothing. Elsewhere than on x86-64 nothing is done.
pub(crate) fn prefetch<T>(what: &T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 processor has it (SSE), and it allows any address.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(what).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = what;
}
