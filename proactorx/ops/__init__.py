"""Operations: what each kind is, and the life of one from submit to its last packet.
Knows no driver and no port.
"""
