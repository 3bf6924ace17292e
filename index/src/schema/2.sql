-- Content that the cluster was found not to have any more: kept for those who refer to it, offered to nobody else.
ALTER TABLE content ADD COLUMN lost INTEGER NOT NULL DEFAULT 0;
