//! Opens arbitrary sealed tokens.

#![no_main]

#[path = "../bodies/open_sealed_token.rs"]
mod open_sealed_token;

libfuzzer_sys::fuzz_target!(|input: &[u8]| open_sealed_token::run(input));
