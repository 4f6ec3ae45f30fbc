use super::*;

fn augmenter(spec: Augment, shape: [usize; 3]) -> Augmenter {
    let black = (0..shape[0])
        .map(|channel| -(channel as f32) - 1.0)
        .collect();
    Augmenter { spec, shape, black }
}

fn applied(augmenter: &Augmenter, numbers: &[f32], key: u64) -> Vec<f32> {
    match augmenter.apply(Input::Numbers(numbers.into()), key) {
        Input::Numbers(numbers) => numbers.to_vec(),
        _ => panic!("numbers stay numbers"),
    }
}

/// The same key gives the same sample; over keys, every window and both directions come up.
#[test]
fn windows_are_drawn_by_key() {
    let spec = Augment {
        crop: 1,
        flip: true,
        ..Augment::default()
    };
    let augmenter = augmenter(spec, [2, 2, 3]);
    let image: Vec<f32> = (1..=12_u8).map(f32::from).collect();
    let mut seen = std::collections::BTreeSet::new();
    for key in 0..600 {
        let window = applied(&augmenter, &image, mix(key));
        assert_eq!(window, applied(&augmenter, &image, mix(key)));
        let text: Vec<String> = window.iter().map(f32::to_string).collect();
        seen.insert(text.join(" "));
    }
    assert_eq!(seen.len(), 3 * 3 * 2);
    // As it was, mirrored, and moved to the lower right: black has each channel's own value.
    assert!(seen.contains("1 2 3 4 5 6 7 8 9 10 11 12"));
    assert!(seen.contains("3 2 1 6 5 4 9 8 7 12 11 10"));
    assert!(seen.contains("-1 -1 -1 -1 1 2 -2 -2 -2 -2 7 8"));
}

/// A mask moves as its image does: where one plane of both is the same before, it is the same after.
#[test]
fn masks_move_with_their_images() {
    let spec = Augment {
        crop: 2,
        flip: true,
        ..Augment::default()
    };
    let still = augmenter(Augment::default(), [1, 3, 4]);
    assert_eq!(still.window(7), None);
    let augmenter = augmenter(spec, [1, 3, 4]);
    let image: Vec<f32> = (1..=12_u8).map(f32::from).collect();
    let mask: Vec<u8> = (1..=12).collect();
    let mut moved = 0;
    for key in 0..100 {
        let window = augmenter.window(mix(key)).unwrap();
        let seen = window.of(&mask, [3, 4], 255);
        let expected = applied(&augmenter, &image, mix(key));
        for (class, pixel) in seen.iter().zip(&expected) {
            match class {
                // Black is -1 here.
                255 => assert_eq!(*pixel, -1.0),
                class => assert_eq!(*pixel, f32::from(*class)),
            }
        }
        moved += usize::from(seen != mask);
    }
    assert!(moved > 80, "{moved}");
}

/// Masks set whole columns and rows to the mean, up to the widths asked for and no more.
#[test]
fn masks_are_bands() {
    let spec = Augment {
        time_mask: 2,
        frequency_mask: 1,
        ..Augment::default()
    };
    let augmenter = augmenter(spec, [1, 4, 5]);
    let features: Vec<f32> = (0..20_u8).map(f32::from).collect();
    let mut most = (0, 0);
    for key in 0..200 {
        let masked = applied(&augmenter, &features, mix(key));
        let is_mean = |at: usize| (masked[at] - 9.5).abs() < 1e-6;
        let rows = (0..4)
            .filter(|bin| (0..5).all(|frame| is_mean(bin * 5 + frame)))
            .count();
        let columns = (0..5)
            .filter(|frame| (0..4).all(|bin| is_mean(bin * 5 + frame)))
            .count();
        let changed = (0..20).filter(|&at| masked[at] != features[at]).count();
        assert_eq!(
            changed,
            rows * 5 + columns * 4 - rows * columns,
            "{masked:?}"
        );
        most = (most.0.max(rows), most.1.max(columns));
    }
    assert_eq!(most, (1, 2));
}
