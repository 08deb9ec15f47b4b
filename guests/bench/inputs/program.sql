-- A table of orders: filled, indexed, joined, grouped, changed and sorted, all in memory.
create table customer (id integer primary key, name text, region integer);
create table purchase (id integer primary key, customer integer, day integer, amount integer, note text);
with recursive n(i) as (select 1 union all select i + 1 from n where i < 2000)
insert into customer select i, printf('customer %05d', (i * 7919) % 100003), i % 17 from n;
with recursive n(i) as (select 1 union all select i + 1 from n where i < 40000)
insert into purchase select i, (i * 31) % 2000 + 1, (i * 17) % 365, (i * 7919) % 10007, printf('note %x', i * 2654435761) from n;
create index purchase_customer on purchase (customer, day);
select region, count(*), sum(amount), max(day) from purchase join customer on customer.id = customer group by region;
select name, total from (select customer, sum(amount) as total from purchase group by customer) join customer
	on customer.id = customer order by total desc, name limit 20;
update purchase set amount = amount + 1 where note like '%a_f%';
delete from purchase where day between 100 and 120 and amount % 3 = 0;
select count(*), sum(amount), count(distinct note) from purchase;
select day, avg(amount) from purchase where customer in (select id from customer where region = 3) group by day
	order by 2 desc, 1 limit 10;
