"""What jobs stand on and no result depends on: whole files, progress, remembered answers, fingerprints, GPU locks.

Any folder may import from here; nothing here knows of models, data or rules. A change in this folder reruns nothing
(`vlmlaw.runtime.fingerprint` leaves it out), so code that can change a number has no place in it.
"""
