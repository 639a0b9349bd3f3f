//! The bodies of the fuzz targets, with a bounded number of random inputs.

use proptest::prelude::*;

#[path = "../../fuzz/bodies/open_sealed_token.rs"]
mod open_sealed_token;

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, ..ProptestConfig::default() })]

    #[test]
    fn sealed_tokens_are_opened_only_unaltered(input in proptest::collection::vec(any::<u8>(), 0..300)) {
        open_sealed_token::run(&input);
    }
}
