//! The Pareto set of points for which less is better on both axes. Owns dominance; must not know the axes.

/// For each point, whether no other is at least as good on both axes and better on one. Equal points are both in the set.
#[must_use]
pub fn pareto(points: &[(f64, f64)]) -> Vec<bool> {
    let dominates = |a: &(f64, f64), b: &(f64, f64)| a.0 <= b.0 && a.1 <= b.1 && (a.0 < b.0 || a.1 < b.1);
    points.iter().map(|point| !points.iter().any(|other| dominates(other, point))).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_dominated_points_are_removed() {
        let points = [(1.0, 5.0), (2.0, 2.0), (2.0, 3.0), (3.0, 2.0), (5.0, 1.0), (2.0, 2.0), (6.0, 6.0)];
        assert_eq!(pareto(&points), [true, true, false, false, true, true, false]);
        assert_eq!(pareto(&[]), Vec::<bool>::new());
    }

    proptest! {
        #[test]
        fn every_point_outside_the_set_is_dominated_by_one_of_it(points in prop::collection::vec((0u8..6, 0u8..6), 1..20)) {
            let points: Vec<(f64, f64)> = points.into_iter().map(|(x, y)| (f64::from(x), f64::from(y))).collect();
            let set = pareto(&points);
            prop_assert!(set.contains(&true));
            for (index, point) in points.iter().enumerate() {
                let beaten = points.iter().zip(&set).any(|(other, kept)| *kept && other.0 <= point.0 && other.1 <= point.1 && other != point);
                prop_assert_eq!(set[index], !beaten);
            }
        }
    }
}
