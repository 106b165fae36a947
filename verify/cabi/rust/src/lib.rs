//! Flash attention over the C interface `flash_attn.h`.
//!
//! [`forward`] and [`backward`] take slices in host memory and compute on the CPU. [`ffi`] has the functions themselves, over
//! raw pointers, for memory of a GPU.

use std::error;
use std::ffi::CStr;
use std::fmt;
use std::mem::size_of;
use std::os::raw::{c_int, c_void};
use std::ptr::{null, null_mut};

/// The declarations of `flash_attn.h`, unchanged.
pub mod ffi {
    use std::os::raw::{c_char, c_int, c_void};

    pub const FLASH_ATTN_OK: c_int = 0;
    pub const FLASH_ATTN_FLOAT16: i32 = 0;
    pub const FLASH_ATTN_BFLOAT16: i32 = 1;
    pub const FLASH_ATTN_FLOAT32: i32 = 2;
    pub const FLASH_ATTN_FLOAT64: i32 = 3;
    pub const FLASH_ATTN_BATCH_LENGTH_HEADS: i32 = 0;
    pub const FLASH_ATTN_BATCH_HEADS_LENGTH: i32 = 1;
    pub const FLASH_ATTN_CPU: i32 = 0;
    pub const FLASH_ATTN_GPU: i32 = 1;

    #[repr(C)]
    #[derive(Clone, Copy, Debug)]
    pub struct FlashAttnParams {
        pub struct_size: usize,
        pub batch: i64,
        pub length: i64,
        pub heads: i64,
        pub head_size: i64,
        pub scale: f64,
        pub causal: i32,
        pub dtype: i32,
        pub layout: i32,
        pub device: i32,
        pub device_index: i32,
        pub stream: *mut c_void,
        pub key_length: i64,
        pub key_heads: i64,
        pub mask: *const c_void,
        pub mask_batch: i64,
        pub mask_heads: i64,
    }

    extern "C" {
        pub fn flash_attn_forward(
            params: *const FlashAttnParams,
            query: *const c_void,
            key: *const c_void,
            value: *const c_void,
            out: *mut c_void,
            logsumexp: *mut c_void,
        ) -> c_int;

        pub fn flash_attn_backward(
            params: *const FlashAttnParams,
            grad_out: *const c_void,
            query: *const c_void,
            key: *const c_void,
            value: *const c_void,
            out: *const c_void,
            logsumexp: *const c_void,
            grad_query: *mut c_void,
            grad_key: *mut c_void,
            grad_value: *mut c_void,
        ) -> c_int;

        pub fn flash_attn_status_text(status: c_int) -> *const c_char;
        pub fn flash_attn_last_error() -> *const c_char;
    }
}

mod sealed {
    pub trait Sealed {
        const DTYPE: i32;
    }

    impl Sealed for f32 {
        const DTYPE: i32 = super::ffi::FLASH_ATTN_FLOAT32;
    }

    impl Sealed for f64 {
        const DTYPE: i32 = super::ffi::FLASH_ATTN_FLOAT64;
    }
}

/// A type of numbers that Rust has and the library computes: `f32` and `f64`.
pub trait Element: sealed::Sealed + Copy + Default {}

impl Element for f32 {}
impl Element for f64 {}

/// What a call computes. Tensors are contiguous (batch, length, heads, head_size).
#[derive(Clone, Copy, Debug, Default)]
pub struct Problem {
    pub batch: usize,
    pub length: usize,
    pub heads: usize,
    pub head_size: usize,
    /// Keys and values, such as those of a cache; 0 stands for `length`.
    pub key_length: usize,
    /// Heads of the keys and values, which groups of the queries' heads share; 0 stands for `heads`.
    pub key_heads: usize,
    /// A query sees no later key.
    pub causal: bool,
    /// None and 0 stand for 1 / sqrt(head_size).
    pub scale: Option<f64>,
}

/// The result of [`forward`], which [`backward`] needs.
#[derive(Clone, Debug)]
pub struct Attention<T> {
    pub out: Vec<T>,
    /// The logarithm of each query's sum, (batch, heads, length).
    pub logsumexp: Vec<T>,
}

/// The result of [`backward`].
#[derive(Clone, Debug)]
pub struct Gradients<T> {
    pub query: Vec<T>,
    pub key: Vec<T>,
    pub value: Vec<T>,
}

/// A call that the library refused, or slices that do not have the size of the problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// The status of `flash_attn.h`; None where the library was not called.
    pub status: Option<i32>,
    pub message: String,
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl error::Error for Error {}

impl Problem {
    fn elements(&self) -> Result<usize, Error> {
        self.product(&[self.batch, self.length, self.heads, self.head_size])
    }

    fn key_elements(&self) -> Result<usize, Error> {
        let key_heads = if self.key_heads == 0 { self.heads } else { self.key_heads };
        self.product(&[self.batch, self.keys(), key_heads, self.head_size])
    }

    fn keys(&self) -> usize {
        if self.key_length == 0 {
            self.length
        } else {
            self.key_length
        }
    }

    fn sums(&self) -> Result<usize, Error> {
        self.product(&[self.batch, self.length, self.heads])
    }

    fn product(&self, sizes: &[usize]) -> Result<usize, Error> {
        sizes
            .iter()
            .try_fold(1_usize, |all, &size| all.checked_mul(size))
            .filter(|&all| all <= isize::MAX as usize / size_of::<f64>())
            .ok_or_else(|| refused(format!("{self:?} is larger than can be addressed")))
    }

    fn params<T: Element>(&self, mask: Option<&[T]>) -> Result<ffi::FlashAttnParams, Error> {
        if let Some(values) = mask {
            expect("mask", values.len(), self.product(&[self.length, self.keys()])?)?;
        }
        Ok(ffi::FlashAttnParams {
            struct_size: size_of::<ffi::FlashAttnParams>(),
            batch: self.batch as i64,
            length: self.length as i64,
            heads: self.heads as i64,
            head_size: self.head_size as i64,
            scale: self.scale.unwrap_or(0.0),
            causal: i32::from(self.causal),
            dtype: T::DTYPE,
            layout: ffi::FLASH_ATTN_BATCH_LENGTH_HEADS,
            device: ffi::FLASH_ATTN_CPU,
            device_index: 0,
            stream: null_mut(),
            key_length: self.key_length as i64,
            key_heads: self.key_heads as i64,
            mask: mask.map_or(null(), address),
            mask_batch: 1,
            mask_heads: 1,
        })
    }
}

/// Compute softmax(scale query key^T + mask) value on the CPU.
///
/// The mask is (length, key_length), for all heads; minus infinity hides a key.
pub fn forward<T: Element>(
    problem: &Problem,
    query: &[T],
    key: &[T],
    value: &[T],
    mask: Option<&[T]>,
) -> Result<Attention<T>, Error> {
    let (elements, key_elements, sums) = (problem.elements()?, problem.key_elements()?, problem.sums()?);
    for (name, slice, wanted) in [("query", query, elements), ("key", key, key_elements), ("value", value, key_elements)] {
        expect(name, slice.len(), wanted)?;
    }
    let params = problem.params(mask)?;
    let mut found = Attention { out: vec![T::default(); elements], logsumexp: vec![T::default(); sums] };
    // SAFETY: every slice has the size that the parameters name, and lives until the call returned.
    let status = unsafe {
        ffi::flash_attn_forward(
            &params,
            address(query),
            address(key),
            address(value),
            found.out.as_mut_ptr().cast(),
            found.logsumexp.as_mut_ptr().cast(),
        )
    };
    accept(status).map(|()| found)
}

/// Compute the gradients of query, key and value on the CPU, from that of the result and what [`forward`] returned.
pub fn backward<T: Element>(
    problem: &Problem,
    grad_out: &[T],
    query: &[T],
    key: &[T],
    value: &[T],
    mask: Option<&[T]>,
    attention: &Attention<T>,
) -> Result<Gradients<T>, Error> {
    let (elements, key_elements) = (problem.elements()?, problem.key_elements()?);
    for (name, slice) in [("grad_out", grad_out), ("query", query), ("out", &attention.out)] {
        expect(name, slice.len(), elements)?;
    }
    for (name, slice) in [("key", key), ("value", value)] {
        expect(name, slice.len(), key_elements)?;
    }
    expect("logsumexp", attention.logsumexp.len(), problem.sums()?)?;
    let params = problem.params(mask)?;
    let empty = |count| vec![T::default(); count];
    let mut found = Gradients { query: empty(elements), key: empty(key_elements), value: empty(key_elements) };
    // SAFETY: as in `forward`.
    let status = unsafe {
        ffi::flash_attn_backward(
            &params,
            address(grad_out),
            address(query),
            address(key),
            address(value),
            address(&attention.out),
            address(&attention.logsumexp),
            found.query.as_mut_ptr().cast(),
            found.key.as_mut_ptr().cast(),
            found.value.as_mut_ptr().cast(),
        )
    };
    accept(status).map(|()| found)
}

/// Turn a status into a result, with the library's message for this thread's last call.
pub fn accept(status: c_int) -> Result<(), Error> {
    if status == ffi::FLASH_ATTN_OK {
        return Ok(());
    }
    // SAFETY: both functions return text that ends with a zero; it is copied before the next call.
    let texts = unsafe { [CStr::from_ptr(ffi::flash_attn_status_text(status)), CStr::from_ptr(ffi::flash_attn_last_error())] };
    let message = texts.map(|text| text.to_string_lossy().into_owned()).join(": ");
    Err(Error { status: Some(status), message })
}

fn address<T>(slice: &[T]) -> *const c_void {
    slice.as_ptr().cast()
}

fn expect(name: &str, found: usize, wanted: usize) -> Result<(), Error> {
    if found == wanted {
        return Ok(());
    }
    Err(refused(format!("{name} has {found} elements, the problem {wanted}")))
}

fn refused(message: String) -> Error {
    Error { status: None, message }
}
