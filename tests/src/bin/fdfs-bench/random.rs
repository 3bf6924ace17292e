//! Content that cannot be compressed.

/// Fills `bytes` with the output of a fixed xorshift generator, the same in every run.
pub fn fill(bytes: &mut [u8]) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for chunk in bytes.chunks_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        chunk.copy_from_slice(&state.to_le_bytes()[..chunk.len()]);
    }
}

#[cfg(test)]
mod tests {
    use super::fill;

    #[test]
    fn all_of_it_is_filled() {
        let mut bytes = [0; 1021];
        fill(&mut bytes);
        assert!(bytes.windows(16).all(|window| window.iter().any(|&byte| byte != 0)));
    }
}
