//! Flash attention as an operation of Candle, over the crate in the folder above.
//!
//! State: an example that was never compiled. No test builds it, because it needs candle-core with its dependencies, and for
//! GPUs cudarc and a GPU. It was written for candle-core 0.9. To use it, add to a crate of yours:
//!
//!     [dependencies]
//!     candle-core = { version = "0.9", features = ["cuda"] }
//!     half = "2"
//!     firstlight-flash-attn = { path = "verify/cabi/rust" }
//!
//! It has the forward pass alone: Candle refuses `backward` through it.

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::cudarc::driver::{DevicePtr, DevicePtrMut, DeviceRepr};
use candle_core::cuda_backend::{CudaDType, CudaStorage};
use candle_core::{bail, CpuStorage, CustomOp3, DType, Error, Layout, Result, Shape, Tensor};
use firstlight_flash_attn::{accept, ffi, forward, Element, Problem};

/// Return softmax(scale query key^T) value.
///
/// All are contiguous (batch, length, heads, head_size): f16 or bf16 on a GPU, f32 or f64 on a CPU. A scale of None stands for
/// 1 / sqrt(head_size).
pub fn flash_attention(query: &Tensor, key: &Tensor, value: &Tensor, causal: bool, scale: Option<f64>) -> Result<Tensor> {
    query.apply_op3_no_bwd(key, value, &FlashAttention { causal, scale })
}

struct FlashAttention {
    causal: bool,
    scale: Option<f64>,
}

impl FlashAttention {
    fn problem(&self, layouts: [&Layout; 3]) -> Result<Problem> {
        let (batch, length, heads, head_size) = layouts[0].shape().dims4()?;
        if layouts.iter().any(|one| one.shape() != layouts[0].shape() || !one.is_contiguous()) {
            bail!("query, key and value must be contiguous and of one shape: {layouts:?}");
        }
        Ok(Problem { batch, length, heads, head_size, causal: self.causal, scale: self.scale, ..Problem::default() })
    }

    fn on_cpu<T: Element>(&self, parts: [(&[T], &Layout); 3]) -> Result<Vec<T>> {
        let problem = self.problem(parts.map(|(_, layout)| layout))?;
        let [query, key, value] =
            parts.map(|(all, layout)| &all[layout.start_offset()..][..layout.shape().elem_count()]);
        Ok(forward(&problem, query, key, value, None).map_err(Error::wrap)?.out)
    }

    fn on_gpu<T: CudaDType + DeviceRepr>(&self, dtype: i32, parts: [(&CudaStorage, &Layout); 3]) -> Result<CudaStorage> {
        let problem = self.problem(parts.map(|(_, layout)| layout))?;
        let (device, count) = (parts[0].0.device().clone(), parts[0].1.shape().elem_count());
        let stream = device.cuda_stream();
        // SAFETY: the library writes every element.
        let mut out = unsafe { device.alloc::<T>(count)? };
        let mut inputs = Vec::new();
        for (storage, layout) in parts {
            inputs.push(storage.as_cuda_slice::<T>()?.slice(layout.start_offset()..));
        }
        let params = ffi::FlashAttnParams {
            struct_size: std::mem::size_of::<ffi::FlashAttnParams>(),
            batch: problem.batch as i64,
            length: problem.length as i64,
            heads: problem.heads as i64,
            head_size: problem.head_size as i64,
            scale: problem.scale.unwrap_or(0.0),
            causal: i32::from(problem.causal),
            dtype,
            layout: ffi::FLASH_ATTN_BATCH_LENGTH_HEADS,
            device: ffi::FLASH_ATTN_GPU,
            device_index: stream.context().ordinal() as i32,
            stream: stream.cu_stream().cast(),
            key_length: 0,
            key_heads: 0,
            mask: std::ptr::null(),
            mask_batch: 0,
            mask_heads: 0,
        };
        let status = {
            let (query, _query) = inputs[0].device_ptr(&stream);
            let (key, _key) = inputs[1].device_ptr(&stream);
            let (value, _value) = inputs[2].device_ptr(&stream);
            let (written, _written) = out.device_ptr_mut(&stream);
            // SAFETY: the tensors have the sizes of the parameters, and the stream keeps them until the work is done.
            unsafe {
                ffi::flash_attn_forward(
                    &params,
                    query as *const _,
                    key as *const _,
                    value as *const _,
                    written as *mut _,
                    std::ptr::null_mut(),
                )
            }
        };
        accept(status).map_err(Error::wrap)?;
        Ok(CudaStorage::wrap_cuda_slice(out, device))
    }
}

impl CustomOp3 for FlashAttention {
    fn name(&self) -> &'static str {
        "firstlight-flash-attention"
    }

    fn cpu_fwd(
        &self,
        query: &CpuStorage,
        query_layout: &Layout,
        key: &CpuStorage,
        key_layout: &Layout,
        value: &CpuStorage,
        value_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        use CpuStorage::{F32, F64};
        let layouts = (query_layout, key_layout, value_layout);
        let out = match (query, key, value) {
            (F32(q), F32(k), F32(v)) => F32(self.on_cpu([(q, layouts.0), (k, layouts.1), (v, layouts.2)])?),
            (F64(q), F64(k), F64(v)) => F64(self.on_cpu([(q, layouts.0), (k, layouts.1), (v, layouts.2)])?),
            _ => bail!("on a CPU query, key and value must be f32 or f64, of one type"),
        };
        Ok((out, query_layout.shape().clone()))
    }

    fn cuda_fwd(
        &self,
        query: &CudaStorage,
        query_layout: &Layout,
        key: &CudaStorage,
        key_layout: &Layout,
        value: &CudaStorage,
        value_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let parts = [(query, query_layout), (key, key_layout), (value, value_layout)];
        let out = match query.dtype() {
            DType::F16 => self.on_gpu::<half::f16>(ffi::FLASH_ATTN_FLOAT16, parts)?,
            DType::BF16 => self.on_gpu::<half::bf16>(ffi::FLASH_ATTN_BFLOAT16, parts)?,
            other => bail!("on a GPU query, key and value must be f16 or bf16, not {other:?}"),
        };
        Ok((out, query_layout.shape().clone()))
    }
}
