//! handler-launcher-com.
