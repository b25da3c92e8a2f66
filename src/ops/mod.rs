//! The numeric kernels, one file each: arguments, one shape check, a readable CPU twin, dispatch.
