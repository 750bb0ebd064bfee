"""TypiClust on faiss, which has k-means and exact neighbours but no such rule: the published steps in its two calls."""

import faiss
import numpy as np


def typiclust(case, seed, neighbours=20, max_clusters=500, min_size=5):
    labeled = case["labeled_features"]
    points = np.ascontiguousarray(np.concatenate([case["features"], labeled]), dtype=np.float32)
    n_pool = len(points) - len(labeled)

    def query(size):
        k = min(len(labeled) + size, max_clusters)
        kmeans = faiss.Kmeans(points.shape[1], k, niter=25, seed=seed)
        kmeans.train(points)
        labels = kmeans.index.search(points, 1)[1][:, 0]
        sizes = np.bincount(labels, minlength=k)
        n_labels = np.bincount(labels[n_pool:], minlength=k)
        left = sizes - n_labels
        typicality = {}
        picked = []
        for _ in range(size):
            _, _, _, c = min((sizes[c] <= min_size, n_labels[c], -sizes[c], c) for c in range(k) if left[c])
            if c not in typicality:
                members = np.flatnonzero(labels == c)
                index = faiss.IndexFlatL2(points.shape[1])
                index.add(points[members])
                squares = index.search(points[members], min(neighbours + 1, len(members)))[0][:, 1:]
                distances = np.sqrt(squares).mean(axis=1) if squares.shape[1] else np.ones(len(members))
                order = np.argsort(-distances, kind="stable")
                typicality[c] = [int(i) for i in members[order] if i < n_pool]
            picked.append(typicality[c].pop())
            n_labels[c] += 1
            left[c] -= 1
        return picked

    return query
