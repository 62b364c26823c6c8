"""scikit-learn's MLPClassifier with activations of fastact: ELU, say, which scikit-learn does not have.

MLPClassifier looks its activations up by name, and computes derivatives from the output. So every activation with
`backward_from_output` fits. The two dictionaries are private names of scikit-learn (tried with 1.9): pin its version.

Run: python sklearn_mlp.py
"""

from typing import Any

from numpy.typing import NDArray
from sklearn.neural_network import MLPClassifier
from sklearn.neural_network._base import ACTIVATIONS, DERIVATIVES
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import fastact as fa
from fastact.tools.data import load_digits


class FastMLPClassifier(MLPClassifier):
    """MLPClassifier(activation=...) with any of fastact's activations that have `backward_from_output`."""

    _parameter_constraints = {**MLPClassifier._parameter_constraints, "activation": [str]}  # noqa: RUF012

    def fit(self, X: NDArray[Any], y: NDArray[Any]) -> MLPClassifier:
        f = fa.get(self.activation)
        ACTIVATIONS[self.activation] = lambda z: f(z, out=z)
        DERIVATIVES[self.activation] = lambda y, delta: f.backward_from_output(delta, y, out=delta)
        return super().fit(X, y)


(x, labels), (test_x, test_labels) = load_digits()
for activation in ("elu", "selu"):
    network = FastMLPClassifier((64, 64), activation=activation, tol=1e-2, random_state=0)
    model = make_pipeline(StandardScaler(), network)
    accuracy = model.fit(x, labels).score(test_x, test_labels)
    print(f"{activation:8}  test accuracy {accuracy:.3f}")
