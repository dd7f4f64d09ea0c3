"""The paper's claims, put to the test on the embedded simulator by a protocol that is fixed beforehand."""
