//! A guest's heap: Rust's own allocator, which begins in room that the component already has. Growing a memory costs the host
//! two changes of protection, when it grows and when its place is made ready for the next request, and most requests need
//! no more than this. Guests only: on the developer's own machine the system's allocator stays.

use core::{
    alloc::{GlobalAlloc, Layout},
    arch::wasm32,
    cell::{Cell, UnsafeCell},
    ptr,
};

use dlmalloc::{Allocator, Dlmalloc};

struct Heap(UnsafeCell<Dlmalloc<Room>>);

/// Where memory comes from: first the room, once, then pages.
struct Room(Cell<bool>);

#[repr(align(16))]
struct Begin(UnsafeCell<[u8; BEGIN]>);

// SAFETY: a guest has one thread, and no call of the allocator is inside another.
unsafe impl Sync for Heap {}
// SAFETY: as above; nobody but the heap reads or writes it.
unsafe impl Sync for Begin {}
// SAFETY: as above.
unsafe impl Send for Room {}

#[global_allocator]
static HEAP: Heap = Heap(UnsafeCell::new(Dlmalloc::new_with_allocator(Room(Cell::new(false)))));
static ROOM: Begin = Begin(UnsafeCell::new([0; BEGIN]));

// SAFETY: all four hand on what they are given, to an allocator that keeps the contract; one at a time.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        unsafe { (*self.0.get()).malloc(layout.size(), layout.align()) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        unsafe { (*self.0.get()).free(ptr, layout.size(), layout.align()) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        unsafe { (*self.0.get()).calloc(layout.size(), layout.align()) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        unsafe { (*self.0.get()).realloc(ptr, layout.size(), layout.align(), size) }
    }
}

// SAFETY: each region is given out once and never taken back.
unsafe impl Allocator for Room {
    fn alloc(&self, size: usize) -> (*mut u8, usize, u32) {
        if size <= BEGIN && !self.0.replace(true) {
            return (ROOM.0.get().cast(), BEGIN, 0);
        }
        let pages = size.div_ceil(PAGE);
        match wasm32::memory_grow::<0>(pages) {
            usize::MAX => (ptr::null_mut(), 0, 0),
            // The last page of all ends where numbers do: its last bytes are left out, so that no pointer wraps.
            before => {
                let (begin, size) = (before * PAGE, pages * PAGE);
                let size = if begin.wrapping_add(size) == 0 { size - 16 } else { size };
                (ptr::without_provenance_mut(begin), size, 0)
            }
        }
    }

    fn remap(&self, _: *mut u8, _: usize, _: usize, _: bool) -> *mut u8 {
        ptr::null_mut()
    }

    fn free_part(&self, _: *mut u8, _: usize, _: usize) -> bool {
        false
    }

    fn free(&self, _: *mut u8, _: usize) -> bool {
        false
    }

    fn can_release_part(&self, _: u32) -> bool {
        false
    }

    fn allocates_zeros(&self) -> bool {
        true
    }

    fn page_size(&self) -> usize {
        PAGE
    }
}

/// Never touched, it costs nothing but the number.
const BEGIN: usize = 256 << 10;
const PAGE: usize = 64 << 10;
